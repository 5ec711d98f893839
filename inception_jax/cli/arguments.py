"""What the verbs' arguments have in common."""

from collections.abc import Sequence
from typing import Annotated

import tyro

from inception_jax.errors import UserError

PROG = "inception-jax"

arg = tyro.conf.arg
Directory = Annotated[str | None, arg(metavar="DIR")]


def no_more(flags: Sequence[str], verb: str) -> None:
    """Raises UserError for arguments that a verb without an experiment was given too many."""
    if flags:
        raise UserError(f"{verb} does not take {' '.join(flags)}; see {PROG} {verb} --help.")
