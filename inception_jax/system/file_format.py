"""Version of the file format of runs, checkpoints, exports and predictions.

Every version of the package reads what an earlier one wrote, from format 1 on; `tests/golden` holds files of each
format. A change that an earlier version would misread raises `FORMAT`; a new field whose default means "as before" does
not.
"""

import os
from collections.abc import Mapping
from typing import Any

from inception_jax.errors import UserError

FORMAT = 1
"""The format that this version writes, and the newest that it reads."""

KEY = "format"
"""Key of the format number in the metadata of a file."""


def with_format(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata to write, with the format number as the first entry."""
    return {KEY: FORMAT, **metadata}


def check_format(path: str | os.PathLike, found: Any) -> None:
    """Raises UserError unless this version reads the format `found` of the file `path`.

    None, for files from before formats were numbered, is accepted; the reader then checks only the fields.
    """
    if found is None or (type(found) is int and 1 <= found <= FORMAT):
        return
    if type(found) is int and found > FORMAT:
        raise UserError(
            f"{path} has format {found}, of a newer inception_jax; this version reads formats up to {FORMAT}: "
            "upgrade inception_jax."
        )
    raise UserError(f"{path} has format {found!r}; a format is a number from 1 to {FORMAT}.")
