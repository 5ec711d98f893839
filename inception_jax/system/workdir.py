"""Checks of a run's directory before training: its place, writable, enough space, not locked. No jax.

RUN/.lock     the process that trains the run, or trained it last; locked with flock(2) during training

The kernel holds the lock, so it cannot become stale: it is released when the process ends, even by SIGKILL. The
contents of the file only serve the error message. The file is never removed, because then two processes could lock two
files of the same name.

On a local disk a second training on the same machine is always refused. On NFS and cluster file systems the same holds
between machines, as far as their servers implement flock; a crashed machine may appear to hold the lock for some
minutes (NFSv4), or until the file is removed (NFSv3). Where locks are local to a machine (`nolock`, `localflock`,
mounted buckets), a training on another machine is not detected; a file system without locks is reported.
"""

import contextlib
import datetime
import fcntl
import mimetypes
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from inception_jax.errors import UserError
from inception_jax.system.names import check_path, printable

LOCK = ".lock"


@contextlib.contextmanager
def lock_workdir(directory: str | Path, *, report: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Context that locks `directory`, which is created if necessary, against other trainings; never waits.

    In a run of several processes only process 0 may call this. A forked child keeps the lock after its parent ends; a
    subprocess does not.

    Args:
      directory: directory of the run.
      report: called with a warning if the file system has no locks.

    Raises:
      UserError: another process trains there, or the directory is not writable.
    """
    directory = Path(directory)
    with contextlib.ExitStack() as stack:
        with _as_user_error(directory):
            directory.mkdir(parents=True, exist_ok=True)
            # Unbuffered, so that closing does not retry a write that failed on a full disk.
            file = stack.enter_context((directory / LOCK).open("a+b", buffering=0))
            _lock(file, directory, report)
            file.truncate(0)
            file.write(_describe_holder().encode())
        yield


def check_writable(directory: str | Path, needed_bytes: int = 0) -> None:
    """Creates `directory` if necessary, and checks that it is writable by writing to it.

    Args:
      directory: directory of a run or of other results.
      needed_bytes: free space required, quotas not considered.

    Raises:
      UserError: `directory` is not writable, is a bucket's address, or has too little free space.
    """
    if "://" in str(directory):
        raise UserError(f"{directory} is not a local path; mount the bucket and give its mount point.")
    directory = Path(directory)
    with _as_user_error(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".writable-", buffering=0) as file:
            file.write(bytes(4096))
            # Some file systems, such as NFS, report a full disk only here.
            os.fsync(file.fileno())
        free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise UserError(
            f"{directory} has {free / 1e6:,.1f} MB free, but the checkpoints of this run need "
            f"{needed_bytes / 1e6:,.1f} MB; free some space, lower train.keep, or use another --workdir."
        )


def check_place(directory: str | Path, *sources: str) -> None:
    """Checks, before anything is made, that `directory` is outside of the images and has a path of text.

    Within `folder:PATH` it would be taken for a class, and a prepared data set should hold nothing else. Where no
    source names the folder of the images, it must not be within folders that look like the classes of a data set.

    Args:
      directory: directory of a run or of other results, which need not exist.
      sources: the images, as in `data.open_source`.

    Raises:
      UserError: `directory` is within the images, or its path is not UTF-8.
    """
    check_path(directory)
    out = Path(directory).resolve()
    around = [out, *out.parents]
    for source in sources:
        kind, _, place = source.partition(":")
        if kind in ("folder", "idx") and "://" not in place:
            root = Path(place).expanduser().resolve()
            if root in around and root.is_dir():
                _refuse_inside(directory, source)
    prepared = next((folder for folder in around if (folder / "dataset_info.json").is_file()), None)
    if prepared:
        _refuse_inside(directory, f"tfds:{prepared}")
    # The file of csv:FILE may lie beside the runs.
    unknown = not sources or any(source.startswith("csv:") for source in sources)
    classes = next((folder for folder in around if _holds_classes(folder)), None) if unknown else None
    if classes:
        _refuse_inside(directory, f"folder:{classes}")


def _refuse_inside(directory: str | Path, source: str) -> None:
    raise UserError(
        f"{printable(str(directory))} lies within the images of {printable(source)}, where it would be taken for some "
        "of them; give a directory outside."
    )


def _holds_classes(folder: Path) -> bool:
    """Whether a folder has only folders of images in it, or only folders of such folders named train, val, ..."""
    splits = {"train", "training", "val", "valid", "validation", "test"}
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        if len(entries) < 2 or not all(entry.is_dir() for entry in entries):
            return False
        if {entry.name for entry in entries} <= splits:
            return all(_holds_classes(Path(entry)) for entry in entries)
        return all(_holds_images(entry) for entry in entries)
    except OSError:
        return False


def _holds_images(folder: os.DirEntry[str]) -> bool:
    with os.scandir(folder) as entries:
        first = next((entry.name for entry in entries if not entry.name.startswith(".")), "")
    return str(mimetypes.guess_type(first)[0]).startswith("image/")


@contextlib.contextmanager
def _as_user_error(directory: Path) -> Iterator[None]:
    """Converts an OSError to a UserError of one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {_reason(error)}; use another directory.") from error


def _reason(error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return "it is a file and not a directory"
    if isinstance(error, NotADirectoryError):
        return "a part of the path is a file"
    return (error.strerror or str(error)).lower()


def _lock(file: BinaryIO, directory: Path, report: Callable[[str], None]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(1000).decode(errors="replace").strip()
        raise UserError(_lock_message(directory, holder)) from None
    except OSError as error:
        report(f"warning: {directory} cannot be locked against a second training: {error.strerror}.")


def _describe_holder() -> str:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    return f"process {os.getpid()} {_on_this_host()} since {now}\n"


def _on_this_host() -> str:
    return f"on host {socket.gethostname()}"


def _lock_message(directory: Path, holder: str) -> str:
    if not holder or f" {_on_this_host()} " in holder:
        stop = "stop it"
    else:
        stop = f"stop it (or remove {directory / LOCK} if that host is gone)"
    return f"{directory} is being trained by {holder or 'another process'}; {stop}, or use another --workdir."
