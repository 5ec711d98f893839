"""Errors that end a command without a traceback."""

_LONGEST = 300  # characters of another library's message; zipfile's may be the whole file


class UserError(ValueError):
    """An invalid request; the message is one sentence with what to change.

    The command line prints it and exits with 2.
    """


class RunFailed(RuntimeError):
    """A valid run that failed and cannot continue, e.g. because the loss became non-finite.

    The command line prints the message and exits with 1.
    """


class Preempted(Exception):
    """A command that SIGTERM stopped after its work was saved; it can be resumed.

    The command line prints the message and exits with 75, EX_TEMPFAIL of sysexits.h: try again. A supervisor can tell
    it from a failed run (1), an invalid request (2), Ctrl-C (130) and a killed process (128 + signal).
    """

    def __init__(self, saved: str):
        """`saved` names the last saved work, as in "step 7"."""
        super().__init__(f"stopped by SIGTERM after {saved}; run the same command again to resume.")


class BrokenImage(UserError):
    """An unreadable or undecodable image; the message names it. `data.on_error` "skip" replaces it by another."""


def reason(error: Exception) -> str:
    """Message of an error on one line without a full stop, cut if long, for the end of a sentence."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message[:_LONGEST] + "..." if len(message) > _LONGEST else message.rstrip(".")
