"""Checks of a run's directory before training: that it is writable, has room, and is locked by no one else. No jax.

RUN/.lock     who trains the run, or trained it last; locked with flock(2) while it is being trained

The lock belongs to the kernel and not to the file's contents, so that there is no stale one to recognise: it goes with
the process, however that ends (SIGKILL too), and a process id that is used again, or that is another one's in another
container, cannot mislead. The contents are for the message only. The file stays, because removing a lock file lets two
processes lock two files of one name.

What that guarantees: on a local disk, no second training on the same machine, ever. On NFS and cluster file systems the
same between machines, as far as their servers keep flock; a machine that crashed may seem to hold it for some minutes
(NFSv4), or until the file is removed (NFSv3). Where locks are local to a machine (`nolock`, `localflock`, buckets that
are mounted), a second training on another machine is not noticed; where there are none at all, that is reported.
"""

import contextlib
import datetime
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from inception_jax.errors import UserError

LOCK = ".lock"


@contextlib.contextmanager
def lock_workdir(directory: str | Path, *, report: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Locks `directory`, which is created if necessary, against other trainings until the context is left.

    Never waits. In a run of several processes only the first may ask. A child that is forked meanwhile keeps the lock
    after its parent's end; one that is started as a new program does not.

    Args:
      directory: of the run.
      report: Told where the file system has no locks, so that nothing is kept.

    Raises:
      UserError: another process trains there, or the directory cannot be written.
    """
    directory = Path(directory)
    with contextlib.ExitStack() as stack:
        with _as_user_error(directory):
            directory.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk refused would be tried again in closing.
            file = stack.enter_context((directory / LOCK).open("a+b", buffering=0))
            _lock(file, directory, report)
            file.truncate(0)
            file.write(_describe_holder().encode())
        yield


def check_writable(directory: str | Path, needed_bytes: int = 0) -> None:
    """Creates `directory` if necessary, and checks that it is writable by writing to it.

    Args:
      directory: of the run, or of other results.
      needed_bytes: What will still be written. A quota is not known beforehand and not counted.

    Raises:
      UserError: it cannot be written, is in a bucket, or has fewer bytes free.
    """
    if "://" in str(directory):
        raise UserError(f"{directory} is no path: mount the bucket and give the directory where it is mounted.")
    directory = Path(directory)
    with _as_user_error(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".writable-", buffering=0) as file:
            file.write(bytes(4096))
            # Some file systems, NFS among them, say only now that there is no room.
            os.fsync(file.fileno())
        free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise UserError(
            f"{directory} has {free / 1e6:,.1f} MB free, and the checkpoints of this run need "
            f"{needed_bytes / 1e6:,.1f} MB; free some, lower train.keep, or use another --workdir."
        )


@contextlib.contextmanager
def _as_user_error(directory: Path) -> Iterator[None]:
    """Turns an error of the file system into a UserError of one sentence."""
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
        report(f"warning: a second training in {directory} would not be noticed, no lock can be had: {error.strerror}.")


def _describe_holder() -> str:
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    return f"process {os.getpid()} {_on_this_host()} since {now}\n"


def _on_this_host() -> str:
    return f"on host {socket.gethostname()}"


def _lock_message(directory: Path, holder: str) -> str:
    if not holder or f" {_on_this_host()} " in holder:
        stop = "stop it"
    else:
        stop = f"stop it (should that host be gone: remove {directory / LOCK})"
    return f"{directory} is being trained by {holder or 'another process'}; {stop}, or use another --workdir."
