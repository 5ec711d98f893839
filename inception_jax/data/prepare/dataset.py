"""What is to be written: the examples of each split by number, and the metadata that describes them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple


class Example(NamedTuple):
    """One example of a set."""

    record: bytes
    """A serialised tf.train.Example, as it is written."""
    images: tuple[bytes, ...]
    """The encoded images in it, which must be whole."""
    name: str
    """Where it comes from, for messages."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One split's examples by number; `read` is safe to call from several threads."""

    name: str
    """As tensorflow-datasets calls it: train, validation, test, ..."""
    length: int
    """How many examples there are."""
    read: Callable[[int], Example]
    """Gives an example; BrokenImage where it alone cannot be read, another UserError where no other could be either."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A set that can be prepared."""

    info: Any
    """The `tensorflow_datasets.core.DatasetInfo` of the set; how its splits are stored is not yet in it."""
    splits: tuple[Split, ...]
    """In the order in which they are written."""
    digest: str
    """A hash over the examples; shards made of two listings fit together where it is the same."""
