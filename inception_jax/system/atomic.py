"""Atomic writes: a file is replaced completely or not at all."""

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
def as_run_failed(path: Path) -> Iterator[None]:
    """Converts an OSError while writing `path` to a RunFailed of one sentence."""
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"{path} could not be written: {error.strerror or error}; fix that and run the same command again."
        ) from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Yields a temporary file, which is synced and renamed to `path` at exit; RunFailed if that fails.

    The directory is created if necessary; an existing file is replaced.
    """
    temporary = path.with_name(f".{path.name}.unfinished")
    try:
        with as_run_failed(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
            put_in_place(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_in_place(written: Path, path: Path) -> None:
    """Syncs a written file or directory and renames it to `path`; OSError if that fails."""
    descriptor = os.open(written, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(written, path)
