"""Data sets prepared by tensorflow-datasets as TFRecord files, read without TensorFlow: tfds:DIR."""

import bisect
import functools
import hashlib
import itertools
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_jax.data.prepare.byte_range import ByteRange, read_range
from inception_jax.data.prepare.dataset import Dataset, Example, Split
from inception_jax.errors import BrokenImage, UserError, reason

# A record is the length of its data, the checksum of the length, the data and their checksum, little-endian. Checksums
# (CRC-32C) are not verified, because no required library computes them, and every image is decoded.
_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")


def list_tfrecord(place: str) -> Dataset:
    """Lists all splits of a prepared data set, the records of which are copied unchanged."""
    import tensorflow_datasets as tfds  # here because it is slow to import

    if not (Path(place) / "dataset_info.json").is_file():
        raise UserError(f"tfds:{place} has no dataset_info.json; give the directory of a prepared data set.")
    try:
        info = tfds.builder_from_directory(place).info
        stored = info.file_format.value
    except Exception as error:  # ParseError, KeyError, ValueError, AssertionError, ...
        raise UserError(f"tfds:{place} cannot be opened: {reason(error)}.") from error
    if stored != "tfrecord":
        raise UserError(
            f"tfds:{place} is stored as {stored}; only tfrecord can be prepared, and array_record need not be."
        )
    # Only images are decoded, because other features may be slow to decode or need a library.
    named = info.features if isinstance(info.features, tfds.features.FeaturesDict) else {}
    images = {key: feature for key, feature in named.items() if isinstance(feature, tfds.features.Image)}
    if not images:
        raise UserError(f"tfds:{place} has no image feature; it must have one.")
    try:
        files = {
            name: list(zip(map(Path, split.filepaths), split.shard_lengths, strict=True))
            for name, split in info.splits.items()
            if split.num_examples
        }
    except (ValueError, LookupError, TypeError) as error:  # of a damaged template of names
        raise UserError(f"tfds:{place} does not say how its files are called: {reason(error)}.") from error
    if not files:
        raise UserError(f"tfds:{place} has no examples; prepare it again.")
    checked = tfds.features.FeaturesDict(images)
    splits = tuple(_split(name, shards, checked) for name, shards in files.items())
    return Dataset(info, splits, _digest(files))


def _digest(files: Mapping[str, Sequence[tuple[Path, int]]]) -> str:
    digest = hashlib.sha256()
    for path, length in itertools.chain.from_iterable(files.values()):
        try:
            digest.update(f"{path.name} {length} {path.stat().st_size}\n".encode())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def _split(name: str, files: Sequence[tuple[Path, int]], checked: Any) -> Split:
    ends = list(itertools.accumulate(length for _, length in files))
    # Only for the files that are being read.
    places = functools.lru_cache(maxsize=256)(_places)

    def read(index: int) -> Example:
        number = bisect.bisect_right(ends, index)
        path, length = files[number]
        place = places(path, length)[index - ends[number] + length]
        return _example(read_range(path, place), checked, f"{name} {index} in {path}")

    return Split(name, ends[-1], read)


def _example(record: bytes, checked: Any, name: str) -> Example:
    """Example of a record, with the images of the features `checked`."""
    import tensorflow_datasets as tfds

    try:
        skip = {key: tfds.decode.SkipDecoding() for key in checked}
        images = checked.deserialize_example_np(record, decoders=skip)
    except Exception as error:  # DecodeError of protobuf, or any error of tfds for a missing feature
        raise BrokenImage(f"the record {name} is broken: {reason(error)}.") from error
    return Example(record, tuple(images.values()), name)


def _places(path: Path, length: int) -> list[ByteRange]:
    """Byte range of the data of each record; UserError where the file is broken or has another number of records."""
    records: list[ByteRange] = []
    try:
        with open(path, "rb") as file:
            end, place = os.fstat(file.fileno()).st_size, 0
            while place < end:
                header = file.read(_HEADER.size)
                size = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else end
                records.append(ByteRange(f"record {len(records) + 1:,}", place + _HEADER.size, size))
                place = file.seek(place + _HEADER.size + size + _FOOTER.size) if size < end else end + 1
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if place > end:
        raise UserError(f"{path} is broken at its record {len(records):,} of {length:,}; download it again.")
    if len(records) != length:
        raise UserError(f"{path} holds {len(records):,} records, its metadata says {length:,}; download it again.")
    return records
