"""Images and labels in MNIST's idx files, gzipped or not."""

import functools
import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from inception_jax.data.sources.source import Source, read_array
from inception_jax.errors import UserError


def open_idx(path: Path, split: str) -> Source:
    """Opens one split of the data set in the folder `path`, or of the one whose file names start with `path`."""
    names = {"train": "train", "validation": "(?:t10k|test)"}
    images_file = _find_idx(path, names[split], "images", 3)
    labels_file = _find_idx(path, names[split], "labels", 1)
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
    train_labels = labels if split == "train" else _read_idx(_find_idx(path, "train", "labels", 1), 1)
    num_classes = int(train_labels.max(initial=0)) + 1
    if labels.max() >= num_classes:
        raise UserError(f"{labels_file} has the label {labels.max()}; the training labels end at {num_classes - 1}.")
    read = functools.partial(read_array, images, labels, str(images_file))
    return Source(tuple(str(label) for label in range(num_classes)), len(images), read)


def _find_idx(path: Path, split: str, kind: str, dimensions: int) -> Path:
    """File of this kind in the folder `path`, or with a name that starts with `path` (EMNIST has six data sets)."""
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
        f"idx:{path} holds several sets ({', '.join(plain)}); give the prefix of one, such as idx:{folder / first}."
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
