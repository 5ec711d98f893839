"""Sources: labelled images by number."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from inception_jax.errors import UserError


class Record(NamedTuple):
    """One labelled image as its source stores it."""

    image: bytes | np.ndarray
    """An encoded file, or uint8 [H, W] or [H, W, C]."""
    label: int
    """Index into the source's `class_names`."""
    name: str
    """Origin of the image, for messages: a path, or 'digits train 17'."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled images by number; `source[i]` is safe to call from several threads."""

    class_names: tuple[str, ...]
    """The classes in the order of their labels."""
    length: int
    """Number of images."""
    read: Callable[[int], Record]
    """Reads the image with a number below `length`; UserError where it cannot be read."""
    locate: Callable[[int], tuple[str, int]] | None = None
    """Returns an image's name and label without reading it, where a source knows them beforehand."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def name(self, index: int) -> str:
        """The name of an image, read only where it cannot be known otherwise."""
        return self.locate(index)[0] if self.locate else self[index].name

    def __len__(self) -> int:
        """Number of images."""
        return self.length

    def __getitem__(self, index: int) -> Record:
        """The image of this number; IndexError outside 0 .. length - 1, so that a source can be looped over."""
        if not 0 <= index < self.length:
            raise IndexError(f"image {index} of {self.length}")
        return self.read(index)


def sample(source: Source, count: int) -> Source:
    """`count` of a source's images, drawn evenly and always the same ones, in the source's order.

    Drawn, because folders are sorted by class. UserError where the source has fewer.
    """
    if count > len(source):
        raise UserError(f"{count:,} images are asked for, but there are only {len(source):,}.")
    chosen = np.sort(np.random.default_rng(0).permutation(len(source))[:count])
    locate = source.locate
    return dataclasses.replace(
        source,
        length=count,
        read=lambda index: source.read(int(chosen[index])),
        locate=None if locate is None else lambda index: locate(int(chosen[index])),
    )


def read_array(images: np.ndarray, labels: np.ndarray, name: str, index: int) -> Record:
    """Image `index` of a source that is held in memory."""
    return Record(images[index], int(labels[index]), f"{name} {index}")
