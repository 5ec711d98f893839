"""A part of a large file: an image in a tar, a record in a shard."""

from pathlib import Path
from typing import NamedTuple

from inception_jax.errors import UserError


class ByteRange(NamedTuple):
    """Where a part lies."""

    name: str
    offset: int
    """Of its first byte, from the beginning of the file."""
    size: int
    """In bytes."""


def read_range(path: Path, part: ByteRange) -> bytes:
    """The bytes of a part; UserError where the file no longer gives them."""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(part.offset)
            data = file.read(part.size)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) != part.size:
        raise UserError(f"{path} ends within {part.name}; it has changed since it was listed.")
    return data
