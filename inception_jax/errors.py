"""The ways in which a command ends early without a traceback."""


class UserError(ValueError):
    """Something the user asked for cannot be done; the message is one sentence that says what to change.

    The command line prints it and exits with 2.
    """


class RunFailed(RuntimeError):
    """A run that was asked for rightly came to an end it cannot go on from, as by a loss that is not finite.

    The command line prints the message and exits with 1.
    """


class Preempted(Exception):
    """A run was asked by SIGTERM to stop, and has saved where it was; it has neither ended nor failed.

    The command line prints the message and exits with 75, which sysexits.h calls EX_TEMPFAIL: try again. A supervisor
    so tells it from a run that failed (1), a mistake (2), Ctrl-C (130) and a process that was killed (128 + signal).
    """

    def __init__(self, step: int):
        """`step` is the last one whose result was saved."""
        super().__init__(f"stopped by SIGTERM after step {step}; the same command goes on from there.")


class BrokenImage(UserError):
    """One image cannot be read or decoded; the message names it. With `data.on_error` skip another takes its place."""
