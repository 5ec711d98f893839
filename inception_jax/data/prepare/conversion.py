"""Conversion of a data set: lists it, writes its shards in parallel, and then its metadata."""

import concurrent.futures
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from inception_jax.data.prepare import output
from inception_jax.data.prepare.dataset import Dataset
from inception_jax.data.prepare.folder import list_folder
from inception_jax.data.prepare.imagenet import list_imagenet
from inception_jax.data.prepare.metadata import write_metadata
from inception_jax.data.prepare.shards import Shard, count, is_whole, list_shards, read_left_out, write_shard
from inception_jax.data.prepare.tfrecord import list_tfrecord
from inception_jax.errors import RunFailed, UserError
from inception_jax.system.atomic import atomic_write
from inception_jax.system.cores import available_cores
from inception_jax.system.progress import Progress, say

_KINDS: Mapping[str, Callable[[str], Dataset]] = {
    "folder": list_folder,
    "imagenet": list_imagenet,
    "tfds": list_tfrecord,
}
_MAX_LISTED = 20  # broken images on the screen; the file names all
_POLL_SECONDS = 0.5  # seconds between two looks at the threads, and so to Ctrl-C


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """Report of a conversion: the contents of the data set, and the work done."""

    images: Mapping[str, int]
    """Number of images of each split."""
    shards: Mapping[str, int]
    """Number of shards of each split."""
    bytes: Mapping[str, int]
    """Size of the shards of each split."""
    left_out: int
    """Number of broken images left out."""
    checked: int
    """Number of images read and decoded in this run; others were in existing shards."""
    seconds: float
    """Duration of the conversion."""


def prepare(
    spec: str, out: str | Path, *, shard_images: int, threads: int | None, skip_broken: bool
) -> PreparedDataset | None:
    """Writes a set as array_record files that `tfds:OUT` reads, going on where an earlier call was ended.

    Every image is decoded on the way, and stored as it is.

    Args:
      spec: `folder:PATH`; `imagenet:DIR`, the directory of ImageNet's tars; `tfds:DIR`, a set prepared as TFRecord.
      out: Directory of the set; new, empty, or of the same call before.
      shard_images: Images of a file.
      threads: Files that are written at once; None for one for each core.
      skip_broken: Leave out images that cannot be decoded; otherwise one fails the call, at its end.

    Returns:
      What was made; None where all was there.

    Raises:
      UserError: there is no such source, or it is damaged as a whole, or `out` is something else.
      RunFailed: images are broken, or a file cannot be written.
    """
    threads = available_cores() if threads is None else threads
    if min(shard_images, threads) < 1:
        raise UserError("a shard must hold one image or more, and there must be one thread or more.")
    kind, place = _parse(spec)
    out = Path(out).expanduser().resolve()
    if kind == "folder" and out.is_relative_to(Path(place).resolve()):
        raise UserError(f"{out} lies in the folder that is prepared and would become one of its classes; name another.")
    plan = output.ConversionPlan(f"{kind}:{place}", shard_images)
    if output.check(out, plan):
        output.clear(out)
        return None
    dataset = _KINDS[kind](place)
    plan = dataclasses.replace(plan, listing=dataset.digest)
    output.check(out, plan)
    with output.claim(out, plan):
        return _convert(dataset, out, shard_images, threads, skip_broken)


def _parse(spec: str) -> tuple[str, str]:
    """The kind of the source and its place, absolute."""
    kind, _, place = spec.partition(":")
    if kind not in _KINDS or not place:
        raise UserError(f"the source {spec!r} must be folder:PATH, imagenet:DIR or tfds:DIR.")
    return kind, place.rstrip("/") if "://" in place else os.path.abspath(Path(place).expanduser())


def _convert(dataset: Dataset, out: Path, shard_images: int, threads: int, skip_broken: bool) -> PreparedDataset:
    shards = list_shards(dataset, out, shard_images)
    missing = [shard for shard in shards if not is_whole(shard, skip_broken=skip_broken)]
    if len(missing) < len(shards):
        say(f"{len(shards) - len(missing):,} of {len(shards):,} shards are there")
    progress = Progress("checked", sum(shard.stop - shard.start for shard in missing), "images")
    try:
        broken = _write_all(missing, threads, skip_broken, progress)
    finally:
        progress.close()
    if skip_broken:
        broken = [line for shard in shards for line in read_left_out(shard)]
    try:
        _report_broken(broken, out, skip_broken)
        members = {split.name: [shard for shard in shards if shard.split is split] for split in dataset.splits}
        prepared = PreparedDataset(
            images={name: sum(count(shard.path) for shard in s) for name, s in members.items()},
            shards={name: len(s) for name, s in members.items()},
            bytes={name: sum(shard.path.stat().st_size for shard in s) for name, s in members.items()},
            left_out=len(broken),
            checked=progress.count,
            seconds=progress.seconds,
        )
        _refuse_empty(prepared)
        write_metadata(dataset.info, members, out)
        output.finish(out)
    except OSError as error:
        raise RunFailed(
            f"{out} cannot be written: {error.strerror}; when that is mended, the same command goes on."
        ) from error
    return prepared


def _write_all(shards: Sequence[Shard], threads: int, skip_broken: bool, progress: Progress) -> list[str]:
    """Writes the shards and says which examples are broken; ends all threads when one fails, and on Ctrl-C."""
    stopped = threading.Event()
    write = functools.partial(write_shard, skip_broken=skip_broken, stopped=stopped, advance=progress.advance)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(write, shard) for shard in shards]
        pending = set(futures)
        try:
            while pending:
                done, pending = concurrent.futures.wait(pending, _POLL_SECONDS, concurrent.futures.FIRST_EXCEPTION)
                for future in done:
                    future.result()
                progress.show()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [line for future in futures for line in future.result()]


def _report_broken(broken: Sequence[str], out: Path, skip_broken: bool) -> None:
    """Lists the broken images on the screen and in a file; RunFailed unless they may be left out."""
    path = out / output.BROKEN
    if not broken:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as file:
        file.write("".join(line + "\n" for line in broken).encode())
    for line in broken[:_MAX_LISTED]:
        say(line)
    if len(broken) > _MAX_LISTED:
        say(f"and {len(broken) - _MAX_LISTED:,} more, see {path}")
    if not skip_broken:
        raise RunFailed(
            f"broken images: {len(broken):,}, listed in {path}; mend them, or leave them out with --skip-broken: "
            "started again, the command makes only their shards."
        )


def _refuse_empty(prepared: PreparedDataset) -> None:
    for split, images in prepared.images.items():
        if not images:
            raise RunFailed(f"every image of the split {split} is broken, so that nothing would be left of it.")
