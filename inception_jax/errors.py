"""The ways in which a command ends early without a traceback."""

_LONGEST = 300  # characters of another library's message; zipfile's may be the whole file


class UserError(ValueError):
    """An invalid request; the message is one sentence that says what to change.

    The command line prints it and exits with 2.
    """


class RunFailed(RuntimeError):
    """A valid run failed and cannot continue, e.g. the loss became non-finite.

    The command line prints the message and exits with 1.
    """


class Preempted(Exception):
    """A command stopped at SIGTERM after saving what is done; it has neither finished nor failed.

    The command line prints the message and exits with 75, EX_TEMPFAIL of sysexits.h: try again. A supervisor can tell
    it from a failed run (1), a mistake (2), Ctrl-C (130) and a killed process (128 + signal).
    """

    def __init__(self, saved: str):
        """`saved` names what is done and saved, as "step 7"."""
        super().__init__(f"stopped by SIGTERM after {saved}; the same command goes on from there.")


class BrokenImage(UserError):
    """An image that cannot be read or decoded; the message names it. `data.on_error` "skip" replaces it by another."""


def reason(error: Exception) -> str:
    """Message of a library's error for the end of a sentence: on one line, not too long, without a full stop."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message[:_LONGEST] + "..." if len(message) > _LONGEST else message.rstrip(".")
