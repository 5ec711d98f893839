"""Copies of prepared data sets in a bucket, because array_record reads only local files."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inception_jax.data.sources.bucket import Bucket
from inception_jax.errors import UserError
from inception_jax.system.atomic import put_in_place
from inception_jax.system.progress import Progress, say

_COPYING_THREADS = 8
_DIRECTORY = re.compile(r"\w[\w.+-]*")
_SHARD = re.compile(r".+-\d{5}-of-\d{5}")


def copy_description(url: str, data_dir: str | None) -> Path:
    """Copies the metadata of the data set at `url`; returns its directory, `data_dir`/NAME/VERSION.

    Raises:
      UserError: there is no `data_dir`, no prepared data set at `url`, or the bucket stays unreachable.
    """
    if data_dir is None:
        raise UserError(
            f"tfds:{url} must be copied to this machine first; set data_dir to a directory with enough space."
        )
    bucket = Bucket(url)
    sizes = _file_sizes(bucket)
    if "dataset_info.json" not in sizes:
        raise UserError(
            f"tfds:{url} holds no dataset_info.json; it must be the directory of one version of a prepared data set."
        )
    text = bucket.read("dataset_info.json")
    try:
        info = json.loads(text)
        parts = [info["name"], *([info["configName"]] if info.get("configName") else []), info["version"]]
        # A bucket must not cause writes outside data_dir.
        if not all(_DIRECTORY.fullmatch(part) for part in parts):
            raise ValueError(parts)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{url}/dataset_info.json is broken; prepare the data set again.") from error
    folder = Path(data_dir).expanduser().joinpath(*parts)
    texts = {name: size for name, size in sizes.items() if not _SHARD.fullmatch(name)}
    for name, size in _missing_files(folder, texts).items():
        _copy_file(bucket, folder, name, size)
    return folder


def copy_shards(url: str, folder: Path, names: Sequence[str]) -> None:
    """Copies the named files of the data set at `url` into `folder`, except those that are already complete there.

    Raises:
      UserError: a file is missing, the disk is too small, or the bucket stays unreachable.
    """
    bucket = Bucket(url)
    sizes = _file_sizes(bucket)
    missing = sorted(set(names) - set(sizes))
    if missing:
        raise UserError(f"tfds:{url} lacks {len(missing)} of its {len(names)} files, the first {missing[0]}.")
    wanted = _missing_files(folder, {name: sizes[name] for name in names})
    total, free = sum(wanted.values()), shutil.disk_usage(folder).free
    if total > free:
        raise UserError(f"tfds:{url} needs {total / 1e9:.1f} GB more in {folder}, which has {free / 1e9:.1f} GB free.")
    if not wanted:
        return
    say(f"copying {len(wanted)} files, {total / 1e9:.1f} GB, of {url} to {folder}")
    progress, pool = Progress("copied", len(wanted), "files"), ThreadPoolExecutor(_COPYING_THREADS)
    try:
        for _ in pool.map(lambda name: _copy_file(bucket, folder, name, wanted[name]), wanted):
            progress.advance()
            progress.show()
    finally:
        pool.shutdown(cancel_futures=True)
        progress.close()


def _file_sizes(bucket: Bucket) -> dict[str, int]:
    return {name: size for name, size in bucket.entries("").items() if size is not None}


def _missing_files(folder: Path, sizes: Mapping[str, int]) -> dict[str, int]:
    """Files that `folder`, which is created if necessary, lacks or has with another size in bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.name in sizes}
    except OSError as error:
        raise UserError(f"the directory {folder} cannot be written: {error.strerror}.") from error
    return {name: size for name, size in sizes.items() if present.get(name) != size}


def _copy_file(bucket: Bucket, folder: Path, name: str, size: int) -> None:
    """Copies a file of `size` bytes to a temporary name and renames it."""
    # A unique name, because the hosts of a pod may copy to a shared disk.
    temporary = folder / f".{name}.{uuid.uuid4().hex}"
    try:
        bucket.copy(name, temporary)
        if temporary.stat().st_size != size:
            raise UserError(
                f"{bucket.root}/{name} is incomplete, {temporary.stat().st_size} of {size} bytes; try again."
            )
        put_in_place(temporary, folder / name)
    finally:
        temporary.unlink(missing_ok=True)
