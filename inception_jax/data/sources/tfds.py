"""Data sets prepared by tensorflow-datasets as array_record files, read without TensorFlow."""

import functools
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.data.sources import splits, tfds_bucket
from inception_jax.data.sources.source import Layout, Record, Source, class_name, list_names, subset
from inception_jax.data.sources.splits import SplitOptions
from inception_jax.data.sources.tfds_splits import find_splits
from inception_jax.errors import BrokenImage, UserError, reason
from inception_jax.system.names import check_path
from inception_jax.system.progress import Progress

# In Python, because the command line of tensorflow-datasets needs TensorFlow.
_HOW_TO_PREPARE = (
    "run tensorflow_datasets.builder('{}', file_format='array_record').download_and_prepare() in Python "
    "(it needs importlib_resources), or set data_dir"
)

# Other files that a process may have to open.
_OTHER_FILES = 256


def open_tfds(name: str, split: str, data_dir: str | None, options: SplitOptions) -> Source:
    """Opens one split of a prepared data set.

    Args:
      name: Name or directory of the data set, or its URL in a bucket, from which it is copied into `data_dir`.
      split: As in `open_source`; "test" is used where there is no validation split, and a part of each class is held
        out where there is neither.
      data_dir: As in `open_source`.
      options: As in `open_source`.

    Raises:
      UserError: the data set is not prepared as array_record, lacks the split, or is not one of labelled images.
    """
    import tensorflow_datasets as tfds  # here because it is slow to import

    remote = "://" in name
    builder = _open_builder(str(tfds_bucket.copy_description(name, data_dir)) if remote else name, data_dir)
    _check_prepared(builder, name)
    features = builder.info.features
    keys = (
        _only_feature(features, name, tfds.features.Image, "image"),
        _only_feature(features, name, tfds.features.ClassLabel, "label"),
    )
    _check_classes(features, keys[1], name)
    found = find_splits(builder.info.splits, name, options)
    wanted, part = splits.choose(split, found.train, found.validation)
    if wanted is None:
        raise UserError(
            f"tfds:{name} has {list_names('split', list(builder.info.splits))} and none to train on; name one in "
            "data.train_split, or a part of one such as 'test[:90%]'."
        )
    folder = Path(builder.data_path)
    try:
        shards = sorted(set(builder.info.splits[wanted].filenames))
    except (ValueError, LookupError, TypeError) as error:  # a damaged template of file names
        raise UserError(f"tfds:{name} does not say how its files are called: {reason(error)}.") from error
    if remote:
        tfds_bucket.copy_shards(name, folder, shards)
    _check_files(name, folder, shards)
    _allow_open_files(name, len(shards))
    # As bytes, because tfds decodes with any library that it finds, and keeps an alpha channel.
    records = builder.as_data_source(wanted, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    class_names = tuple(map(class_name, features[keys[1]].names))
    read = functools.partial(_read_record, records, keys, len(class_names), f"{builder.name} {wanted}")
    train, validation = (place and f"split {place}" for place in (found.train, found.validation))
    unused = [f"split {other}" for other in found.unused]
    layout = Layout(splits.describe(split, train, validation, options.validation_fraction, unused))
    source = Source(class_names, len(records), read, layout=layout)
    return _part(source, records, keys[1], name, options.validation_fraction, part) if part else source


def _part(source: Source, records: Any, label: str, name: str, fraction: float, part: str) -> Source:
    """The images of "train" or "validation" in a set that is not split."""
    chosen = splits.part(_read_labels(records, label, name), fraction, part)
    if not len(chosen):
        raise UserError(f"tfds:{name} is too small to split; one class must have two or more images.")
    return subset(source, chosen)


def _read_labels(records: Any, key: str, name: str) -> np.ndarray:
    """Labels of all records: int64 [N], -1 where one cannot be read."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    labels = np.full(len(records), -1, np.int64)
    progress = Progress(f"labels of tfds:{name}", len(records), "images")
    try:
        for index in range(len(records)):
            try:
                values = tf_example_pb2.Example.FromString(records[index]).features.feature[key].int64_list.value
            except (RuntimeError, ValueError, LookupError, DecodeError):
                values = []  # reported when the image is read
            if len(values) == 1:
                labels[index] = values[0]
            progress.advance()
            progress.show()
    finally:
        progress.close()
    return labels


def _check_classes(features: Any, label: str, name: str) -> None:
    """UserError where the number of classes is unknown or less than two."""
    classes = features[label].num_classes
    if not classes:
        raise UserError(f"the feature {label} of tfds:{name} has no number of classes; it must have one.")
    if classes < 2:
        raise UserError(f"tfds:{name} has only {list_names('class', features[label].names)}; it must have two or more.")


def _open_builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    try:
        folder = _find_set(name, data_dir)
        return tfds.builder_from_directory(folder) if folder else tfds.builder(name, data_dir=data_dir)
    # No such data set; no such version; TensorFlow is needed; the metadata is broken.
    except (ValueError, AssertionError, ImportError, LookupError, AttributeError, OSError, ParseError) as error:
        place = data_dir or tfds.core.constants.DATA_DIR
        # The lines after the first list other data sets.
        first = (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")
        raise UserError(f"tfds:{name} cannot be opened, with data_dir {place}: {first}.") from error


def _find_set(name: str, data_dir: str | None) -> Path | None:
    """Directory `name`, in `data_dir` or as a path, or its newest version; None where there is none."""
    import tensorflow_datasets as tfds

    path = Path(name).expanduser()
    # Only of a path: tfds itself knows the version of a bare name.
    versions = reversed(tfds.core.utils.version.list_all_versions(path)) if "/" in name else ()
    folders = [Path(data_dir or "").expanduser() / name, path, *(path / str(version) for version in versions)]
    return next((folder for folder in folders if (folder / "dataset_info.json").is_file()), None)


def _check_prepared(builder: Any, name: str) -> None:
    """UserError where the data set is not prepared, or not as array_record."""
    import tensorflow_datasets as tfds

    folder = Path(builder.data_path)
    check_path(folder)
    if not builder.info.splits:
        others = tfds.core.utils.version.list_all_versions(folder.parent)
        instead = f"use tfds:{builder.name}:{others[-1]}, which is, or " if others else ""
        raise UserError(f"tfds:{name} is not prepared in {folder}; {instead}{_HOW_TO_PREPARE.format(name)}.")
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        copy = "copy it to this machine and " if "://" in name else ""
        place = "COPY" if copy else folder
        raise UserError(
            f"tfds:{name} in {folder} is prepared as {file_format}, which cannot be read at random; "
            f"{copy}run inception-jax data prepare tfds:{place} OUT."
        )


def _only_feature(features: Mapping[str, Any], name: str, kind: type, usual: str) -> str:
    """Name of the only feature of this type, or else of that with the usual name; UserError where there is neither."""
    # Exactly this type: the subclass LabeledImage is for segmentation.
    found = [key for key, feature in features.items() if type(feature) is kind]
    if usual in found or len(found) == 1:
        return usual if usual in found else found[0]
    raise UserError(
        f"tfds:{name} has the features {', '.join(sorted(features))}; it must have an image and a class label, "
        "one of each or called image and label."
    )


def _check_files(name: str, folder: Path, shards: Sequence[str]) -> None:
    """UserError where a file is missing, of which each image would be reported as broken otherwise."""
    missing = sorted(set(shards) - set(os.listdir(folder)))
    if missing:
        raise UserError(
            f"tfds:{name} lacks {len(missing)} of its {len(shards)} files in {folder}, the first {missing[0]}; "
            "prepare or copy it again."
        )


def _allow_open_files(name: str, count: int) -> None:
    """Raises the limit of open files by `count`; UserError where the hard limit does not allow it."""
    # The reader keeps every file open: 1,024 for ImageNet, which is the usual soft limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    if hard == resource.RLIM_INFINITY or soft + count <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft + count, hard))
    elif count + _OTHER_FILES <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    else:
        raise UserError(
            f"tfds:{name} has {count} files and this process may open only {hard}; "
            f"raise the limit, e.g. with ulimit -n {count + _OTHER_FILES}."
        )


def _read_record(records: Any, keys: tuple[str, str], num_classes: int, name: str, index: int) -> Record:
    """Reads record `index`; `keys` are the names of its image and label."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        features = tf_example_pb2.Example.FromString(records[index]).features.feature
    except (RuntimeError, ValueError, LookupError, DecodeError) as error:
        raise BrokenImage(f"image {index} of tfds:{name} cannot be read: {reason(error)}.") from error
    images, labels = features[keys[0]].bytes_list.value, features[keys[1]].int64_list.value
    if len(images) != 1 or len(labels) != 1:
        raise BrokenImage(
            f"image {index} of tfds:{name} has {len(images)} images and {len(labels)} labels; it must have one of each."
        )
    # ImageNet's records have the name of the file; most data sets have only the number.
    file_names = features["file_name"].bytes_list.value
    file_name = file_names[0].decode(errors="replace") if len(file_names) == 1 else str(index)
    if not 0 <= labels[0] < num_classes:
        raise BrokenImage(
            f"image {index} of tfds:{name} ({file_name}) has the label {labels[0]} of {num_classes} classes."
        )
    return Record(images[0], labels[0], f"{name} {file_name}")
