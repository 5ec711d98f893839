"""Interface of data sets to convert: metadata, and the examples of each split by number."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple


class Example(NamedTuple):
    """One example of a data set."""

    record: bytes
    """Serialised tf.train.Example."""
    images: tuple[bytes, ...]
    """Its encoded images."""
    name: str
    """Origin of the example, for messages."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples of one split by number; `read` is safe to call from several threads."""

    name: str
    """Name of the split in tensorflow-datasets: train, validation, test, ..."""
    length: int
    """Number of examples."""
    read: Callable[[int], Example]
    """Reads an example; BrokenImage where only this one is unreadable, another UserError where the source is."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that can be converted."""

    info: Any
    """The `tensorflow_datasets.core.DatasetInfo` of the data set, without its splits."""
    splits: tuple[Split, ...]
    """Splits in the order in which they are written."""
    digest: str
    """Hash of the examples; shards of two runs belong together only where it is equal."""
