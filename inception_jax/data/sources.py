"""Where images come from: `open_source` turns digits, idx:PATH, folder:PATH or tfds:NAME into labelled images.

Every source reads one image by its number, from any thread, and its order never depends on a seed.
"""

import dataclasses
import functools
import gzip
import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inception_jax.errors import UserError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class Record(NamedTuple):
    """One labelled image as its source stores it."""

    image: bytes | np.ndarray
    """An encoded file, or uint8 [H, W] or [H, W, C]."""
    label: int
    """Index into the source's `class_names`."""
    name: str
    """Where it comes from, for messages: a path, or 'digits train 17'."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled images by number; `source[i]` is safe to call from several threads."""

    class_names: tuple[str, ...]
    """The classes in the order of their labels."""
    length: int
    """How many images there are."""
    read: Callable[[int], Record]
    """Gives the image of a number below `length`; UserError where it cannot be read."""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def __len__(self) -> int:
        """How many images there are."""
        return self.length

    def __getitem__(self, index: int) -> Record:
        """The image of this number; IndexError outside 0 .. length - 1, so that a source can be looped over."""
        if not 0 <= index < self.length:
            raise IndexError(f"image {index} of {self.length}")
        return self.read(index)


def open_source(spec: str, split: str, *, data_dir: str | None = None) -> Source:
    """The images that `spec` names.

    Args:
      spec: `digits`, scikit-learn's 1,797 digits of 8x8 pixels; `idx:PATH`, a folder of MNIST's files; `folder:PATH`, a
        folder of images with one folder per class; `tfds:NAME`, a set prepared by tensorflow-datasets.
      split: "train" or "validation".
      data_dir: Where tensorflow-datasets keeps its sets, if not in its default place; only `tfds:` looks at it.

    Raises:
      UserError: there is no such source or split, or it holds something else than labelled images.
    """
    if split not in ("train", "validation"):
        raise UserError(f"the split {split!r} must be 'train' or 'validation'.")
    kind, _, place = spec.partition(":")
    if spec == "digits":
        return _open_digits(split)
    if kind == "idx" and place:
        return _open_idx(Path(place).expanduser(), split)
    if kind == "folder" and place:
        return _open_folder(Path(place).expanduser(), split)
    if kind == "tfds" and place:
        return _open_tfds(place, split, data_dir)
    raise UserError(f"the source {spec!r} must be digits, idx:PATH, folder:PATH or tfds:NAME.")


def _read_array(images: np.ndarray, labels: np.ndarray, name: str, index: int) -> Record:
    return Record(images[index], int(labels[index]), f"{name} {index}")


def _read_file(files: Sequence[tuple[str, int]], index: int) -> Record:
    path, label = files[index]
    try:
        return Record(Path(path).read_bytes(), label, path)
    except OSError as error:
        raise UserError(f"the image {path} cannot be read: {error.strerror}.") from error


def _read_tfds(records: Any, name: str, index: int) -> Record:
    try:
        record = records[index]
    except (RuntimeError, ValueError) as error:
        raise UserError(f"image {index} of tfds:{name} cannot be read: {error}.") from error
    # ImageNet's records say which file they were; most sets have only the number.
    file_name = record.get("file_name", str(index).encode()).decode()
    return Record(record["image"], int(record["label"]), f"{name} {file_name}")


def _open_digits(split: str) -> Source:
    from sklearn.datasets import load_digits  # here because it takes a second and only this source needs it

    digits = load_digits()
    # Each image's number within its class: every fifth of a class is for validation.
    occurrence = np.zeros(len(digits.target), int)
    for label in range(10):
        members = digits.target == label
        occurrence[members] = np.arange(members.sum())
    chosen = (occurrence % 5 == 4) == (split == "validation")
    # The pixels are counts from 0 to 16.
    images = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    read = functools.partial(_read_array, images, digits.target[chosen], f"digits {split}")
    return Source(tuple("0123456789"), len(images), read)


def _open_idx(path: Path, split: str) -> Source:
    names = {"train": "train", "validation": "(?:t10k|test)"}
    images_file = _find_idx(path, names[split], "images", 3)
    labels_file = _find_idx(path, names[split], "labels", 1)
    images, labels = _read_idx(images_file, 3), _read_idx(labels_file, 1)
    if len(images) != len(labels) or len(images) == 0:
        raise UserError(
            f"{images_file} holds {len(images)} images and {labels_file} {len(labels)} labels; "
            "there must be one or more, and as many of each."
        )
    # Always from the training labels, so that both splits have the same classes.
    train_labels = labels if split == "train" else _read_idx(_find_idx(path, "train", "labels", 1), 1)
    num_classes = int(train_labels.max(initial=0)) + 1
    if labels.max() >= num_classes:
        raise UserError(f"{labels_file} has the label {labels.max()}; the training labels end at {num_classes - 1}.")
    read = functools.partial(_read_array, images, labels, str(images_file))
    return Source(tuple(str(label) for label in range(num_classes)), len(images), read)


def _find_idx(path: Path, split: str, kind: str, dimensions: int) -> Path:
    """The file of this kind in the folder `path`, or the one whose name starts with `path` (EMNIST's six sets)."""
    folder, prefix = (path, "(?:.+-)?") if path.is_dir() else (path.parent, re.escape(path.name) + "-")
    pattern = re.compile(rf"{prefix}{split}-{kind}[-.]idx{dimensions}-ubyte(?:\.gz)?")
    found = sorted(p for p in folder.glob("*-ubyte*") if pattern.fullmatch(p.name))
    plain = {p.name.removesuffix(".gz"): p for p in reversed(found)}
    if len(plain) == 1:
        return plain.popitem()[1]
    if not found:
        name = "train" if split == "train" else "t10k"
        raise UserError(f"idx:{path} has no file {name}-{kind}-idx{dimensions}-ubyte, with or without .gz.")
    first = re.split(f"-{split}-", found[0].name)[0]
    raise UserError(
        f"idx:{path} holds several sets ({', '.join(plain)}); name one by its prefix, as in idx:{folder / first}."
    )


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an idx file: 0, 0, type (8 is uint8), dimensions, the big-endian shape, the values."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(f"{path} starts with {data[:4].hex()}; an idx file must start with 000008{dimensions:02x}.")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    values = np.frombuffer(data, np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=np.int64):
        raise UserError(f"{path} holds {values.size} values; its header says {' x '.join(map(str, shape))}.")
    return values.reshape(shape)


def _open_folder(path: Path, split: str) -> Source:
    if not path.is_dir():
        raise UserError(f"folder:{path} is not a folder.")
    folders = {"train": path / "train"}
    folders["validation"] = next((path / n for n in ("validation", "val", "test") if (path / n).is_dir()), path / "val")
    present = [folder for folder in folders.values() if folder.is_dir()]
    if not present:
        return _split_folder(path, split)
    if not folders[split].is_dir():
        wanted = "train" if split == "train" else "validation, val or test"
        raise UserError(f"folder:{path} has a folder {present[0].name} but no folder {wanted}.")
    # The classes are those of training, but a folder with only validation images can be evaluated.
    class_names = tuple(_class_folders(present[0]))
    images = _images_by_class(folders[split])
    unknown = sorted(set(images) - set(class_names))
    if unknown:
        raise UserError(f"{folders[split]} has the class {unknown[0]!r}, which {present[0]} has not.")
    files = [(file, label) for label, name in enumerate(class_names) for file in images.get(name, ())]
    return Source(class_names, len(files), functools.partial(_read_file, files))


def _split_folder(path: Path, split: str) -> Source:
    """A folder without splits: of each class the second, twelfth, ... image is for validation."""
    images = _images_by_class(path)
    files = [
        (file, label)
        for label, members in enumerate(images.values())
        for number, file in enumerate(members)
        # The second and not the first, so that a class of one image is trained on.
        if (number % 10 == 1) == (split == "validation")
    ]
    if not files:
        raise UserError(f"folder:{path} is too small to split; it must have two images or more of some class.")
    return Source(tuple(images), len(files), functools.partial(_read_file, files))


def _class_folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _images_by_class(path: Path) -> dict[str, list[str]]:
    images = {name: _image_files(path / name) for name in _class_folders(path)}
    if not images:
        raise UserError(f"{path} has no folders; it must have one per class.")
    for name, files in images.items():
        if not files:
            raise UserError(
                f"{path / name} holds no {', '.join(_IMAGE_SUFFIXES)} file; add images or remove the folder."
            )
    return images


def _image_files(folder: Path) -> list[str]:
    """Every image at any depth below `folder`, hidden files and folders left out, sorted."""
    files = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [os.path.join(parent, n) for n in names if n.lower().endswith(_IMAGE_SUFFIXES) and n[0] != "."]
    return sorted(files)


def _open_tfds(name: str, split: str, data_dir: str | None) -> Source:
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
