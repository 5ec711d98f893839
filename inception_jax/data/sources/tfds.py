"""A set prepared by tensorflow-datasets as array_record files, read without TensorFlow."""

import functools
from pathlib import Path
from typing import Any

from inception_jax.data.sources.source import Record, Source
from inception_jax.errors import BrokenImage, UserError


def open_tfds(name: str, split: str, data_dir: str | None) -> Source:
    """The images of one split of a prepared set: of its name, or of the directory that holds it."""
    import tensorflow_datasets as tfds  # here because it is slow to import and only this source needs it

    builder = _tfds_builder(name, data_dir)
    features, splits = builder.info.features, builder.info.splits
    if not splits:
        raise UserError(f"tfds:{name} is not prepared in {builder.data_path}; {_HOW_TO_PREPARE.format(name)}.")
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"tfds:{name} in {builder.data_path} is prepared as {builder.info.file_format.value}, which cannot be read "
            f"at random; {_HOW_TO_PREPARE.format(name)}."
        )
    if not {"image", "label"} <= set(features) or not isinstance(features["label"], tfds.features.ClassLabel):
        raise UserError(
            f"tfds:{name} has the features {', '.join(sorted(features))}; it must have an image and a class label."
        )
    wanted = "test" if split == "validation" and "validation" not in splits else split
    if wanted not in splits:
        raise UserError(f"tfds:{name} has the splits {', '.join(splits)}; it must have train and validation or test.")
    # Encoded bytes: tfds would decode with whatever library it finds, and keep an alpha channel.
    records = builder.as_data_source(wanted, decoders={"image": tfds.decode.SkipDecoding()})
    read = functools.partial(_read_tfds, records, f"{name} {wanted}")
    return Source(tuple(features["label"].names), len(records), read)


# The command line of tensorflow-datasets needs TensorFlow, this does not.
_HOW_TO_PREPARE = (
    "run tensorflow_datasets.builder('{}', file_format='array_record').download_and_prepare() in Python "
    "(it needs importlib_resources), or set data_dir"
)


def _tfds_builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        for folder in (Path(data_dir or "") / name, Path(name)):
            if (folder / "dataset_info.json").is_file():
                return tfds.builder_from_directory(folder)
        return tfds.builder(name, data_dir=data_dir)
    except (ValueError, AssertionError, ImportError) as error:  # no such set; no such version; the set wants TensorFlow
        place = data_dir or tfds.core.constants.DATA_DIR
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"tfds:{name} cannot be opened, with data_dir {place}: {reason}.") from error


def _read_tfds(records: Any, name: str, index: int) -> Record:
    try:
        record = records[index]
    except (RuntimeError, ValueError) as error:
        raise BrokenImage(f"image {index} of tfds:{name} cannot be read: {error}.") from error
    # ImageNet's records say which file they were; most sets have only the number.
    file_name = record.get("file_name", str(index).encode()).decode()
    return Record(record["image"], int(record["label"]), f"{name} {file_name}")
