"""Byte ranges of the files in a tar, for random access without extraction."""

import tarfile
from pathlib import Path

from inception_jax.data.prepare.byte_range import ByteRange
from inception_jax.errors import UserError


def list_members(path: Path, within: ByteRange | None = None) -> list[ByteRange]:
    """Lists the files of a tar in order, or of a tar which is the file `within` of another.

    Raises:
      UserError: the tar is broken or incomplete, or contains something other than regular files.
    """
    name = f"{within.name} in {path}" if within else str(path)
    try:
        with open(path, "rb") as file:
            start = file.seek(within.offset if within else 0)
            # tarfile begins at the current position, and its offsets are those of the outer file.
            with tarfile.open(fileobj=file, mode="r:") as tar:
                members = [_regular(member, name) for member in tar]
            last = members[-1].offset + _blocks(members[-1].size) if members else start
            file.seek(last)
            ended = file.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE
    except tarfile.TarError as error:
        raise UserError(f"{name} is incomplete or not a tar ({error}); download it again.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    # A tar ends with empty blocks. tarfile accepts one without them, cut off between two files or damaged in a header,
    # and continues in the outer tar.
    if not ended or (within and last > within.offset + within.size):
        raise UserError(f"{name} is incomplete or broken after its file {len(members):,}; download it again.")
    return members


def _regular(member: tarfile.TarInfo, name: str) -> ByteRange:
    if not member.isreg() or member.issparse():
        raise UserError(f"{name} holds {member.name}, which is not a regular file; download the original tar.")
    return ByteRange(member.name, member.offset_data, member.size)


def _blocks(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
