"""Shards as array_record files: each written under another name and put in place whole."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from inception_jax.data import preprocess
from inception_jax.data.prepare import output
from inception_jax.data.prepare.dataset import Dataset, Split
from inception_jax.errors import BrokenImage, RunFailed
from inception_jax.system.atomic import atomic_write, put_in_place


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a split, and the examples that belong in it."""

    path: Path
    """Path of the complete file."""
    split: Split
    start: int
    """Number of its first example in the split."""
    stop: int
    """Number after that of its last."""

    @property
    def scratch(self) -> Path:
        """Temporary path of the file while it is written."""
        return self.path.parent / output.PREPARING / self.path.name

    @property
    def left_out(self) -> Path:
        """File with the reasons why examples were left out, one per line."""
        return self.scratch.with_name(self.scratch.name + ".broken")


def list_shards(dataset: Dataset, out: Path, shard_images: int) -> list[Shard]:
    """Every shard of every split, named as tensorflow-datasets names them."""
    import tensorflow_datasets as tfds  # here because it is slow to import

    shards = []
    for split in dataset.splits:
        template = tfds.core.ShardedFileTemplate(
            data_dir=out, dataset_name=dataset.info.name, split=split.name, filetype_suffix="array_record"
        )
        starts = range(0, split.length, shard_images)
        for number, start in enumerate(starts):
            path = Path(template.sharded_filepath(shard_index=number, num_shards=len(starts)))
            shards.append(Shard(path, split, start, min(start + shard_images, split.length)))
    return shards


def is_whole(shard: Shard, *, skip_broken: bool) -> bool:
    """Whether the shard exists with all its examples, or with `skip_broken` all but those known to be broken."""
    missing = len(read_left_out(shard)) if skip_broken else 0
    return shard.path.is_file() and count(shard.path) == shard.stop - shard.start - missing


def read_left_out(shard: Shard) -> list[str]:
    """Why examples were left out of the shard, one sentence for each."""
    return shard.left_out.read_text().splitlines() if shard.left_out.is_file() else []


def count(path: Path) -> int:
    """Number of records in a file by its footer; -1 where the file is incomplete."""
    try:
        reader = ArrayRecordReader(str(path))
        records = reader.num_records()
        reader.close()  # this is what raises
    except RuntimeError:
        return -1
    return records


def write_shard(shard: Shard, *, skip_broken: bool, stopped: threading.Event, advance: Callable[[], None]) -> list[str]:
    """Writes a shard, unless an example in it is broken and must not be left out.

    Args:
      shard: Which.
      skip_broken: Leave broken examples out.
      stopped: Once it is set, the work is dropped before the next example.
      advance: Called after each example.

    Returns:
      Why examples are broken, one sentence of one line for each.

    Raises:
      UserError: the source can no longer be read.
      RunFailed: the shard cannot be written, as when the disk is full.
    """
    try:
        broken = _fill(shard, stopped, advance)
        if stopped.is_set() or (broken and not skip_broken):
            return broken
        if broken:
            with atomic_write(shard.left_out) as file:
                file.write("".join(line + "\n" for line in broken).encode())
        else:
            shard.left_out.unlink(missing_ok=True)
        put_in_place(shard.scratch, shard.path)
        return broken
    except (RuntimeError, OSError) as error:  # the first is what the writer raises for all that goes wrong
        reason = error.strerror if isinstance(error, OSError) else str(error).split(";")[0]
        raise RunFailed(
            f"{shard.path} cannot be written: {reason}; when that is mended, the same command goes on, and what is "
            "written is kept."
        ) from error
    finally:
        shard.scratch.unlink(missing_ok=True)


def _fill(shard: Shard, stopped: threading.Event, advance: Callable[[], None]) -> list[str]:
    """Writes the whole examples of a shard to its place in the making, and says why the others are broken."""
    broken, scratch = [], preprocess.Scratch()
    # Groups of one, so that one example is read without its neighbours; images are compressed already.
    writer = ArrayRecordWriter(str(shard.scratch), "group_size:1,uncompressed")
    try:
        for index in range(shard.start, shard.stop):
            if stopped.is_set():
                break
            try:
                writer.write(_checked_record(shard.split, index, scratch))
            except BrokenImage as error:
                broken.append(" ".join(str(error).split()))
            advance()
    finally:
        writer.close()
    return broken


def _checked_record(split: Split, index: int, scratch: preprocess.Scratch) -> bytes:
    """An example's record, after every image in it has been decoded; BrokenImage where one cannot be."""
    example = split.read(index)
    for image in example.images:
        preprocess.decode(image, example.name, scratch)
    return example.record
