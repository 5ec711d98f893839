"""Byte ranges of large files: an image in a tar, a record in a shard."""

from pathlib import Path
from typing import NamedTuple

from inception_jax.errors import UserError


class ByteRange(NamedTuple):
    """A named range of bytes."""

    name: str
    offset: int
    """Offset of the first byte in the file."""
    size: int
    """Length in bytes."""


def read_range(path: Path, part: ByteRange) -> bytes:
    """Reads a range of a file; UserError where the file is shorter."""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(part.offset)
            data = file.read(part.size)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) != part.size:
        raise UserError(f"{path} ends within {part.name}; it has changed since it was listed.")
    return data
