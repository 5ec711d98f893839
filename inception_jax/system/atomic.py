"""Atomic replacement of files: whatever happens, there is the old one or the new one, whole."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from inception_jax.errors import RunFailed, UserError


def refuse_existing(path: str | os.PathLike, *, overwrite: bool) -> None:
    """Raises UserError where `path` exists, a link to nothing included, and must not be overwritten.

    Call it before the work whose result goes there.
    """
    if not overwrite and os.path.lexists(path):
        raise UserError(f"{os.fspath(path)} exists; give another name, or --overwrite to replace it.")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Opens a temporary file, and syncs it and renames it to `path` at the end; RunFailed where that fails.

    The directory is created if necessary; an existing file is replaced.
    """
    temporary = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
        put_in_place(temporary, path)
    except OSError as error:
        raise RunFailed(
            f"{path} could not be written: {error.strerror or error}; mend that and start the same command again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_in_place(written: Path, path: Path) -> None:
    """Syncs what was written by its name, a file or a directory, and renames it to `path`; OSError if that fails."""
    descriptor = os.open(written, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(written, path)
