"""Byte ranges of the files within a tar, for random access without extracting it."""

import tarfile
from pathlib import Path

from inception_jax.data.prepare.byte_range import ByteRange
from inception_jax.errors import UserError


def list_members(path: Path, within: ByteRange | None = None) -> list[ByteRange]:
    """The files of a tar, or of the tar that is itself the file `within` of another, in the order they lie there.

    Raises:
      UserError: it is no tar, or cut short, or holds something else than regular files.
    """
    name = f"{within.name} in {path}" if within else str(path)
    try:
        with open(path, "rb") as file:
            start = file.seek(within.offset if within else 0)
            # tarfile takes the place that the file is at for the beginning, and gives places in the whole file.
            with tarfile.open(fileobj=file, mode="r:") as tar:
                members = [_regular(member, name) for member in tar]
            last = members[-1].offset + _blocks(members[-1].size) if members else start
            file.seek(last)
            ended = file.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE
    except tarfile.TarError as error:
        raise UserError(f"{name} is cut short or no tar ({error}); get it again.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    # A tar ends with empty blocks. tarfile lets one pass that ends without them, be it cut off between two files or
    # damaged in a header, and reads on in the outer tar.
    if not ended or (within and last > within.offset + within.size):
        raise UserError(f"{name} is cut short or damaged after its file {len(members):,}; get it again.")
    return members


def _regular(member: tarfile.TarInfo, name: str) -> ByteRange:
    if not member.isreg() or member.issparse():
        raise UserError(f"{name} holds {member.name}, which is not a regular file; get the tar as it was published.")
    return ByteRange(member.name, member.offset_data, member.size)


def _blocks(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
