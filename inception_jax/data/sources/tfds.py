"""A set prepared by tensorflow-datasets as array_record files, read without TensorFlow."""

import functools
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_jax.data.sources import tfds_bucket
from inception_jax.data.sources.source import Record, Source
from inception_jax.errors import BrokenImage, UserError, reason

# The command line of tensorflow-datasets needs TensorFlow, this does not.
_HOW_TO_PREPARE = (
    "run tensorflow_datasets.builder('{}', file_format='array_record').download_and_prepare() in Python "
    "(it needs importlib_resources), or set data_dir"
)

# Files that a process may have to open beside a set's.
_OTHER_FILES = 256


def open_tfds(name: str, split: str, data_dir: str | None) -> Source:
    """The images of one split of a prepared set.

    Args:
      name: The set's name, the directory that holds it, or its URL in a bucket, which is copied into `data_dir` first.
      split: As in `open_source`; "test" stands in for a validation split that is not there.
      data_dir: As in `open_source`.

    Raises:
      UserError: the set is not prepared, not as array_record, has no such split, or not one image and one class each.
    """
    import tensorflow_datasets as tfds  # here because it is slow to import and only this source needs it

    remote = "://" in name
    builder = _open_builder(str(tfds_bucket.copy_description(name, data_dir)) if remote else name, data_dir)
    _check_prepared(builder, name)
    features, splits = builder.info.features, builder.info.splits
    image = _only_feature(features, name, tfds.features.Image, "image")
    label = _only_feature(features, name, tfds.features.ClassLabel, "label")
    if not features[label].num_classes:
        raise UserError(f"tfds:{name} does not say how many classes its {label} has.")
    wanted = "test" if split == "validation" and "validation" not in splits else split
    if wanted not in splits:
        raise UserError(f"tfds:{name} has the splits {', '.join(splits)}; it must have train and validation or test.")
    if not splits[wanted].num_examples:
        raise UserError(f"tfds:{name} has no images in its split {wanted}.")
    folder = Path(builder.data_path)
    try:
        shards = sorted(splits[wanted].filenames)
    except (ValueError, LookupError, TypeError) as error:  # of a damaged template of names
        raise UserError(f"tfds:{name} does not say how its files are called: {reason(error)}.") from error
    if remote:
        tfds_bucket.copy_shards(name, folder, shards)
    _check_files(name, folder, shards)
    _allow_open_files(name, len(shards))
    # As bytes: tfds would decode with whatever library it finds, and keep an alpha channel.
    records = builder.as_data_source(wanted, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    class_names = tuple(features[label].names)
    read = functools.partial(_read_record, records, (image, label), len(class_names), f"{builder.name} {wanted}")
    return Source(class_names, len(records), read)


def _open_builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    try:
        folder = _find_set(name, data_dir)
        return tfds.builder_from_directory(folder) if folder else tfds.builder(name, data_dir=data_dir)
    # No such set; no such version; the set wants TensorFlow; its description is broken.
    except (ValueError, AssertionError, ImportError, LookupError, AttributeError, OSError, ParseError) as error:
        place = data_dir or tfds.core.constants.DATA_DIR
        # The lines after the first tell at length what else there is.
        first = (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")
        raise UserError(f"tfds:{name} cannot be opened, with data_dir {place}: {first}.") from error


def _find_set(name: str, data_dir: str | None) -> Path | None:
    """The directory that `name` says, in `data_dir` or as a path, with its newest version where it names none."""
    import tensorflow_datasets as tfds

    path = Path(name).expanduser()
    # Only of what is surely a path: a bare name is for tfds, which knows the version that it means.
    versions = reversed(tfds.core.utils.version.list_all_versions(path)) if "/" in name else ()
    folders = [Path(data_dir or "").expanduser() / name, path, *(path / str(version) for version in versions)]
    return next((folder for folder in folders if (folder / "dataset_info.json").is_file()), None)


def _check_prepared(builder: Any, name: str) -> None:
    """UserError where the set is not there, or not as array_record."""
    import tensorflow_datasets as tfds

    folder = Path(builder.data_path)
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
    """The name of the one feature of a kind, or of the one with the usual name; UserError where neither is there."""
    # Exactly this kind: a labelled image is one of segmentation.
    found = [key for key, feature in features.items() if type(feature) is kind]
    if usual in found or len(found) == 1:
        return usual if usual in found else found[0]
    raise UserError(
        f"tfds:{name} has the features {', '.join(sorted(features))}; it must have an image and a class label, "
        "one of each or called image and label."
    )


def _check_files(name: str, folder: Path, shards: Sequence[str]) -> None:
    """UserError where a file is missing: else each of its images would seem broken."""
    missing = sorted(set(shards) - set(os.listdir(folder)))
    if missing:
        raise UserError(
            f"tfds:{name} lacks {len(missing)} of its {len(shards)} files in {folder}, the first {missing[0]}; "
            "prepare or copy it again."
        )


def _allow_open_files(name: str, count: int) -> None:
    """Raises this process' limit of open files by `count`; UserError where the system's own limit is in the way."""
    # The reader keeps every file open; ImageNet's 1,024 are as many as most systems let a process have at first.
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
            f"raise the limit, as by ulimit -n {count + _OTHER_FILES}."
        )


def _read_record(records: Any, keys: tuple[str, str], num_classes: int, name: str, index: int) -> Record:
    """Image `index`; `keys` are the names of its two features."""
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
    # ImageNet's records say which file they were; most sets have only the number.
    file_names = features["file_name"].bytes_list.value
    file_name = file_names[0].decode(errors="replace") if len(file_names) == 1 else str(index)
    if not 0 <= labels[0] < num_classes:
        raise BrokenImage(
            f"image {index} of tfds:{name} ({file_name}) has the label {labels[0]} of {num_classes} classes."
        )
    return Record(images[0], labels[0], f"{name} {file_name}")
