"""Shards in array_record files, written atomically."""

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
from inception_jax.system.names import printable


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a split, and the range of its examples."""

    path: Path
    """Path of the complete file."""
    split: Split
    start: int
    """Number of the first example in the split."""
    stop: int
    """Number of the last example plus 1."""

    @property
    def scratch(self) -> Path:
        """Temporary path of the file while it is written."""
        return self.path.parent / output.PREPARING / self.path.name

    @property
    def left_out(self) -> Path:
        """File with the faults of the examples that were left out, one per line."""
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


def is_complete(shard: Shard, *, skip_broken: bool) -> bool:
    """Whether the shard has all its examples; with `skip_broken`, except those known to be broken."""
    missing = len(read_left_out(shard)) if skip_broken else 0
    return shard.path.is_file() and count(shard.path) == shard.stop - shard.start - missing


def read_left_out(shard: Shard) -> list[str]:
    """Faults of the examples that were left out of the shard."""
    return shard.left_out.read_text().splitlines() if shard.left_out.is_file() else []


def count(path: Path) -> int:
    """Number of records in a file by its footer; -1 where the file is incomplete."""
    try:
        reader = ArrayRecordReader(str(path))
        records = reader.num_records()
        reader.close()  # raises where the file is incomplete
    except RuntimeError:
        return -1
    return records


def write_shard(shard: Shard, *, skip_broken: bool, stopped: threading.Event, advance: Callable[[], None]) -> list[str]:
    """Writes a shard, unless an example is broken and may not be left out.

    Args:
      shard: Shard to write.
      skip_broken: Leave out broken examples.
      stopped: Ends the call before the next example when set.
      advance: Called after each example.

    Returns:
      Faults of broken examples, one line each.

    Raises:
      UserError: the source can no longer be read.
      RunFailed: the shard cannot be written, e.g. because the disk is full.
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
    except (RuntimeError, OSError) as error:  # the writer raises only RuntimeError
        reason = error.strerror if isinstance(error, OSError) else str(error).split(";")[0]
        raise RunFailed(
            f"{shard.path} cannot be written: {reason}; solve this and run the same command again to resume."
        ) from error
    finally:
        shard.scratch.unlink(missing_ok=True)


def _fill(shard: Shard, stopped: threading.Event, advance: Callable[[], None]) -> list[str]:
    """Writes the intact examples of a shard to `shard.scratch`; returns the faults of the others."""
    broken, scratch = [], preprocess.Scratch()
    # Groups of one, so that an example is read without its neighbours; images are already compressed.
    writer = ArrayRecordWriter(str(shard.scratch), "group_size:1,uncompressed")
    try:
        for index in range(shard.start, shard.stop):
            if stopped.is_set():
                break
            try:
                writer.write(_checked_record(shard.split, index, scratch))
            except BrokenImage as error:
                broken.append(printable(str(error)))
            advance()
    finally:
        writer.close()
    return broken


def _checked_record(split: Split, index: int, scratch: preprocess.Scratch) -> bytes:
    """Record of an example; BrokenImage where one of its images cannot be decoded."""
    example = split.read(index)
    for image in example.images:
        preprocess.decode(image, example.name, scratch)
    return example.record
