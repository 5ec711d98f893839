"""The ways in which a command ends early without a traceback."""


class UserError(ValueError):
    """Something the user asked for cannot be done; the message is one sentence that says what to change.

    The command line prints it and exits with 2.
    """


class RunFailed(RuntimeError):
    """A run that was asked for rightly came to an end it cannot go on from, as by a loss that is not finite.

    The command line prints the message and exits with 1.
    """


class BrokenImage(UserError):
    """One image cannot be read or decoded; the message names it. With `data.on_error` skip another takes its place."""
