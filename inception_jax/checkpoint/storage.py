"""Storage of checkpoints: arrays, metadata and checksums. The only file that imports orbax.

    arrays/     the arrays, as orbax writes them
    NAME.json   the metadata: JSON values, `format` among them
    SHA256SUMS  checksums of every other file, in the format of `sha256sum`

Orbax verifies checksums of its indexes, but neither of the arrays nor of its JSON. Here nothing is parsed before the
checksums of all files are verified, and nothing is ever unpickled or executed.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp

from inception_jax.errors import RunFailed, UserError
from inception_jax.system.file_format import KEY, check_format, with_format
from inception_jax.system.names import check_path

ARRAYS = "arrays"
CHECKSUMS = "SHA256SUMS"


class BrokenCheckpoint(UserError):
    """A checkpoint whose files are not those written; the message names it and the first such file."""


@contextlib.contextmanager
def staging(directory: Path) -> Iterator[Path]:
    """Yields a new directory within `directory`; deletes `directory` and its contents at exit."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        # A new one each time, because threads of a failed write may still be running.
        yield Path(tempfile.mkdtemp(dir=directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def write(directory: Path, arrays: Any, name: str, metadata: Mapping[str, Any]) -> None:
    """Writes a checkpoint to a new directory, checksums last.

    Args:
      directory: absolute path in a `staging` directory; the caller renames it to its final place.
      arrays: tree of NumPy arrays.
      name: file name of the metadata.
      metadata: JSON values.

    Raises:
      OSError, ValueError: it could not be written; see `write_error`.
    """
    _silence_repeated_failures()
    # Without barriers: only this process writes.
    one_process = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="alone"
    )
    with ocp.StandardCheckpointer(multiprocessing_options=one_process) as writer:
        writer.save(directory / ARRAYS, arrays)
    _write_synced(directory / name, json.dumps(with_format(metadata), indent=2) + "\n")
    lines = [f"{_sha256(directory / file)}  {file}\n" for file in _files(directory)]
    _write_synced(directory / CHECKSUMS, "".join(lines))


@functools.cache
def _silence_repeated_failures() -> None:
    """Stops orbax from printing a traceback per array for a failure that it also raises."""
    absl.logging.set_verbosity(absl.logging.FATAL)
    # After the first failure, the tasks and threads that write other arrays fail too.
    logging.getLogger("asyncio").addFilter(lambda record: "orbax-checkpoint-tmp" not in record.getMessage())
    previous_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous_hook(unraisable)

    sys.unraisablehook = hook


def write_error(directory: Path, error: OSError | ValueError) -> RunFailed:
    """Converts an error of `write`, or of renaming its checkpoint, to a RunFailed."""
    # TensorStore appends the system's error number to its message.
    found = re.search(r"os_error_code='(\d+)'", str(error))
    code = int(found[1]) if found else getattr(error, "errno", None)
    reason = os.strerror(code) if code else str(error).partition("\n")[0]
    advice = "free some space and run" if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "fix that and run"
    return RunFailed(
        f"checkpoint {directory.name} could not be written to {directory}: {reason}; {advice} the same command again."
    )


def check(directory: Path) -> None:
    """Verifies the checksums of all files; raises BrokenCheckpoint if one is missing or differs."""
    try:
        faults = _find_faults(directory)
    except OSError as error:
        raise BrokenCheckpoint(
            f"{directory} is broken: {error.filename or directory} cannot be read: {error.strerror}"
        ) from error
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise BrokenCheckpoint(f"{directory} is broken: {faults[0]}{more}")


def read_metadata(directory: Path, name: str) -> dict[str, Any]:
    """The metadata of a checkpoint that was checked; UserError if it is no JSON object or has a newer format."""
    try:
        metadata = json.loads((directory / name).read_text())
        found = metadata.pop(KEY, None)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{directory / name} is not what a checkpoint has: {error}.") from error
    check_format(directory / name, found)
    return metadata


def read_arrays(directory: Path, template: Any = None) -> Any:
    """Reads the arrays of a verified checkpoint as NumPy arrays.

    Args:
      directory: absolute path.
      template: tree of arrays or shapes that the result must match; by default, nested dictionaries are returned.

    Raises:
      UserError: the arrays do not match `template`, or were written by an incompatible orbax or deleted meanwhile; or
        the path is not UTF-8.
    """
    check_path(directory)
    try:
        with ocp.StandardCheckpointer() as reader:
            # Not restored into `template`: orbax would truncate or pad arrays of other shapes.
            arrays = jax.tree.map(np.asarray, reader.restore(directory / ARRAYS))
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{directory} is intact but cannot be read: {reason}") from error
    return arrays if template is None else _match_template(directory, arrays, template)


def _match_template(directory: Path, arrays: Any, template: Any) -> Any:
    # Orbax restores tuples as lists and named tuples as dictionaries, so leaves are matched by their names.
    found, expected = _by_name(arrays), _by_name(template)
    signatures = [{name: f"{x.dtype}{list(x.shape)}" for name, x in leaves.items()} for leaves in (found, expected)]
    there, here = signatures
    misfits = [
        f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        for name in there | here
        if there.get(name) != here.get(name)
    ]
    if misfits:
        more = f", and {len(misfits) - 1} more differ" if len(misfits) > 1 else ""
        raise UserError(f"{directory} does not match the arrays expected here: {misfits[0]}{more}.")
    return jax.tree.unflatten(jax.tree.structure(template), [found[name] for name in expected])


def _by_name(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _find_faults(directory: Path) -> list[str]:
    """Faults of a checkpoint, one phrase per file."""
    found = _files(directory)
    if CHECKSUMS not in found:
        return [f"{CHECKSUMS} is missing"]
    lines = (directory / CHECKSUMS).read_bytes().decode(errors="replace").splitlines()
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    faults = [f"{name} is not in its {CHECKSUMS}" for name in found if name not in (CHECKSUMS, *written)]
    for name, digest in written.items():
        # Names from the list are looked up among the files found and never opened: they may be any path.
        if name not in found:
            faults.append(f"{name!r} is missing")
        elif fault := _fault(directory / name, digest):
            faults.append(f"{name} {fault}")
    return faults


def _fault(path: Path, digest: str) -> str | None:
    try:
        if _sha256(path) == digest:
            return None
        return "has another checksum" if path.stat().st_size else "is empty"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _files(directory: Path) -> list[str]:
    """Files of a checkpoint, relative to it; hidden ones, such as those of file browsers, are ignored."""
    found = []
    # `Path.rglob` silently skips unreadable directories.
    for folder, _, names in os.walk(directory, onerror=_raise):
        found += [(Path(folder) / name).relative_to(directory).as_posix() for name in names if name[0] != "."]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, text: str) -> None:
    # Synced before older checkpoints are deleted; orbax syncs the arrays likewise.
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
