"""A data set to be converted: the examples of each split by number, and the metadata that describes them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple


class Example(NamedTuple):
    """One example of a data set."""

    record: bytes
    """A serialised tf.train.Example, as it is written."""
    images: tuple[bytes, ...]
    """The encoded images in it, which must be whole."""
    name: str
    """Origin of the example, for messages."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One split's examples by number; `read` is safe to call from several threads."""

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
    """The `tensorflow_datasets.core.DatasetInfo` of the set; how its splits are stored is not yet in it."""
    splits: tuple[Split, ...]
    """The splits, in the order in which they are written."""
    digest: str
    """Hash of the examples; shards of two runs fit together where it is the same."""
