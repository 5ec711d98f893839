"""Conversion of a data set: lists its examples, writes shards in parallel, then the metadata."""

import concurrent.futures
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from inception_jax.data.prepare import output
from inception_jax.data.prepare.dataset import Dataset
from inception_jax.data.prepare.folder import list_folder, list_label_file
from inception_jax.data.prepare.imagenet import list_imagenet
from inception_jax.data.prepare.metadata import write_metadata
from inception_jax.data.prepare.shards import Shard, count, is_complete, list_shards, read_left_out, write_shard
from inception_jax.data.prepare.tfrecord import list_tfrecord
from inception_jax.data.sources import SplitOptions, instead_of
from inception_jax.errors import RunFailed, UserError
from inception_jax.system.atomic import atomic_write
from inception_jax.system.cores import available_cores
from inception_jax.system.progress import Progress, say
from inception_jax.system.workdir import check_place

_SPLIT_HERE: Mapping[str, Callable[[str, SplitOptions], Dataset]] = {"folder": list_folder, "csv": list_label_file}
_SPLIT_BEFORE: Mapping[str, Callable[[str], Dataset]] = {"imagenet": list_imagenet, "tfds": list_tfrecord}
_MAX_LISTED = 20  # broken images on the screen; broken.txt lists all
_POLL_SECONDS = 0.5  # time until Ctrl-C is noticed


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """Result of a conversion: contents of the data set, and work done."""

    images: Mapping[str, int]
    """Number of images of each split."""
    shards: Mapping[str, int]
    """Number of shards of each split."""
    bytes: Mapping[str, int]
    """Size of the shards of each split in bytes."""
    left_out: int
    """Number of broken images left out."""
    checked: int
    """Number of images read and decoded in this run, without those in existing shards."""
    seconds: float
    """Duration of the conversion."""


def prepare(
    spec: str,
    out: str | Path,
    *,
    shard_images: int,
    threads: int | None,
    skip_broken: bool,
    options: SplitOptions | None = None,
) -> PreparedDataset | None:
    """Writes a data set as array_record files for `tfds:OUT`; resumes an interrupted call.

    Images are decoded to check them, and stored unchanged.

    Args:
      spec: `folder:PATH`; `csv:FILE`; `imagenet:DIR`, a directory with ImageNet's tars; `tfds:DIR`, a data set in
        TFRecord files.
      out: Output directory: new, empty, or that of an interrupted or complete call.
      shard_images: Images per file.
      threads: Files written at once; None is one per core.
      skip_broken: Leave out broken images; otherwise they make the call fail at its end.
      options: Splits of a folder or a label file, as in `open_source`.

    Returns:
      Contents and work; None where the data set was already complete.

    Raises:
      UserError: the source does not exist or cannot be read, `out` contains something else, or `options` are given for
        a source that has splits of its own.
      RunFailed: images are broken, or a file cannot be written.
    """
    threads = available_cores() if threads is None else threads
    if min(shard_images, threads) < 1:
        raise UserError(f"there are {shard_images} images per shard and {threads} threads; both must be 1 or more.")
    kind, place = _parse(spec)
    options = options or SplitOptions()
    if kind in _SPLIT_BEFORE and options != SplitOptions():
        raise UserError(
            f"{kind}:{place} has splits of its own, which are kept; only those of folder:PATH and csv:FILE can be "
            "chosen here. Choose others in training, with --data.train-split and --data.validation-split."
        )
    out = Path(out).expanduser().resolve()
    if not (out / "dataset_info.json").exists():
        check_place(out, f"{kind}:{place}")
    plan = output.ConversionPlan(
        f"{kind}:{place}",
        shard_images,
        validation_fraction=options.validation_fraction,
        train_split=options.train_split,
        validation_split=options.validation_split,
    )
    if output.check(out, plan):
        output.clear(out)
        return None
    dataset = _SPLIT_HERE[kind](place, options) if kind in _SPLIT_HERE else _SPLIT_BEFORE[kind](place)
    plan = dataclasses.replace(plan, listing=dataset.digest)
    output.check(out, plan)
    with output.claim(out, plan):
        return _convert(dataset, out, shard_images, threads, skip_broken)


def _parse(spec: str) -> tuple[str, str]:
    """Kind and absolute path of the source."""
    kind, _, place = spec.partition(":")
    if kind not in {*_SPLIT_HERE, *_SPLIT_BEFORE} or not place:
        raise UserError(f"the source {spec!r} {instead_of(spec, 'folder:PATH, csv:FILE, imagenet:DIR or tfds:DIR')}.")
    return kind, place.rstrip("/") if "://" in place else os.path.abspath(Path(place).expanduser())


def _convert(dataset: Dataset, out: Path, shard_images: int, threads: int, skip_broken: bool) -> PreparedDataset:
    shards = list_shards(dataset, out, shard_images)
    missing = [shard for shard in shards if not is_complete(shard, skip_broken=skip_broken)]
    if len(missing) < len(shards):
        say(f"{len(shards) - len(missing):,} of {len(shards):,} shards are complete")
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
            f"{out} cannot be written: {error.strerror}; solve this and run the same command again to resume."
        ) from error
    return prepared


def _write_all(shards: Sequence[Shard], threads: int, skip_broken: bool, progress: Progress) -> list[str]:
    """Writes shards and returns the faults of broken examples; one failure, or Ctrl-C, ends all threads."""
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
    """Lists broken images on the screen and in broken.txt; RunFailed without `skip_broken`."""
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
            f"broken images: {len(broken):,}, listed in {path}; replace them or add --skip-broken, and run the command "
            "again to write only their shards."
        )


def _refuse_empty(prepared: PreparedDataset) -> None:
    for split, images in prepared.images.items():
        if not images:
            raise RunFailed(f"every image of the split {split} is broken; at least one must be intact.")
