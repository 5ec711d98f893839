"""Metadata by which tensorflow-datasets opens a data set."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_jax.data.prepare import output
from inception_jax.data.prepare.shards import Shard, count
from inception_jax.system.atomic import put_in_place

_INFO = "dataset_info.json"


def write_metadata(info: Any, shards: Mapping[str, Sequence[Shard]], out: Path) -> None:
    """Writes features.json, the class names and, last, dataset_info.json, which marks the data set as complete.

    Args:
      info: The `tensorflow_datasets.core.DatasetInfo` of the data set; its splits are filled in.
      shards: Shards of each split, all written.
      out: Directory of the data set.
    """
    import tensorflow_datasets as tfds  # here because it is slow to import

    info.set_file_format("array_record", override=True, override_if_initialized=True)
    splits = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[count(shard.path) for shard in members],
            num_bytes=sum(shard.path.stat().st_size for shard in members),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=out, dataset_name=info.name, split=name, filetype_suffix="array_record"
            ),
        )
        for name, members in shards.items()
    ]
    info.set_splits(tfds.core.splits.SplitDict(splits))
    scratch = out / output.PREPARING / "metadata"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    info.write_to_directory(scratch)
    for path in sorted(scratch.iterdir(), key=lambda path: path.name == _INFO):
        put_in_place(path, out / path.name)
