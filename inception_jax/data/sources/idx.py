"""Images and labels in MNIST's idx files, gzipped or not."""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from inception_jax.data.sources import splits
from inception_jax.data.sources.source import Layout, Source, from_arrays
from inception_jax.data.sources.splits import SplitOptions
from inception_jax.errors import UserError

_TEST = "(?:t10k|test)"


def open_idx(path: Path, split: str, options: SplitOptions) -> Source:
    """Opens one split of the data set in the folder `path`, or of the one whose file names start with `path`.

    Without test files a part of each class is held out of the training images.
    """
    tested = bool(_find_all(path, _TEST, "images", 3) or _find_all(path, _TEST, "labels", 1))
    place, part = splits.choose(split, "train", _TEST if tested else None)
    assert place is not None
    images_file, labels_file = _find_idx(path, place, "images", 3), _find_idx(path, place, "labels", 1)
    images, labels = _read_idx(images_file, 3), _read_idx(labels_file, 1)
    if len(images) != len(labels) or len(images) == 0:
        raise UserError(
            f"{images_file} holds {len(images)} images and {labels_file} {len(labels)} labels; "
            "there must be equally many, and at least one."
        )
    if 0 in images.shape:
        raise UserError(
            f"{images_file} holds images of {images.shape[1]} x {images.shape[2]} pixels; both must be 1 or more."
        )
    # Always from the training labels, so that both splits have the same classes.
    train_labels = labels if place == "train" else _read_idx(_find_idx(path, "train", "labels", 1), 1)
    num_classes = int(train_labels.max(initial=0)) + 1
    if labels.max() >= num_classes:
        raise UserError(f"{labels_file} has the label {labels.max()}; the training labels end at {num_classes - 1}.")
    if num_classes < 2:
        raise UserError(f"idx:{path} has only the class 0; it must have two or more.")
    if part:
        chosen = splits.part(labels, options.validation_fraction, part)
        if not len(chosen):
            raise UserError(f"idx:{path} is too small to split; one class must have two or more images.")
        images, labels = images[chosen], labels[chosen]
    layout = Layout(splits.describe(split, "train-*", "t10k-*" if tested else None, options.validation_fraction))
    return from_arrays([str(label) for label in range(num_classes)], images, labels, str(images_file), layout)


def _find_all(path: Path, split: str, kind: str, dimensions: int) -> list[Path]:
    """Files of this kind in the folder `path`, or with names that start with `path` (EMNIST has six data sets)."""
    folder, prefix = (path, "(?:.+-)?") if path.is_dir() else (path.parent, re.escape(path.name) + "-")
    pattern = re.compile(rf"{prefix}{split}-{kind}[-.]idx{dimensions}-ubyte(?:\.gz)?")
    return sorted(p for p in folder.glob("*-ubyte*") if pattern.fullmatch(p.name))


def _find_idx(path: Path, split: str, kind: str, dimensions: int) -> Path:
    """The only file of `_find_all`, gzipped or not."""
    found = _find_all(path, split, kind, dimensions)
    plain = {p.name.removesuffix(".gz"): p for p in reversed(found)}
    if len(plain) == 1:
        return plain.popitem()[1]
    if not found:
        name = "train" if split == "train" else "t10k"
        raise UserError(f"idx:{path} has no file {name}-{kind}-idx{dimensions}-ubyte, with or without .gz.")
    first = re.split(f"-{split}-", found[0].name)[0]
    raise UserError(
        f"idx:{path} holds several sets ({', '.join(plain)}); give the prefix of one, such as "
        f"idx:{found[0].parent / first}."
    )


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads the uint8 array of an idx file: 0, 0, type (8 is uint8), dimensions, big-endian shape, values."""
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
    if values.size != math.prod(shape):  # np.prod could overflow
        raise UserError(f"{path} holds {values.size} values; its header says {' x '.join(map(str, shape))}.")
    return values.reshape(shape)
