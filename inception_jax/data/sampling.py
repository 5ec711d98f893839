"""Balanced order of training images, in which every class is drawn equally often."""

import functools
import itertools
from collections.abc import Iterator

import numpy as np

# Blocks that threads work on at a time, and epochs of a class: at most two, except around the end of one.
_BLOCKS, _EPOCHS = 64, 2

# Domains of the seeds.
_OF_BLOCK, _OF_CLASS = 0, 1


class BalancedOrder:
    """Endless order of image numbers, a function of the labels, the seed and the position.

    Each block of K positions has each of the K classes once, in a shuffled order. The images of a class follow one
    another in epochs of its own, each a permutation of them.

    NumPy permutes rather than Grain's shuffle, which takes 65,536 / n rounds for one index of n: 20 ms for a class of
    three images.
    """

    def __init__(self, labels: np.ndarray, seed: int):
        """Takes the label of every image, negative for one that is left out, and a seed of 0 or more."""
        numbers = np.argsort(labels, kind="stable")
        numbers = numbers[np.count_nonzero(labels < 0) :]
        self._classes, starts = np.unique(labels[numbers], return_index=True)
        self._members = np.split(numbers, starts[1:])
        self._labels, self._seed = labels, seed
        self._block = functools.lru_cache(_BLOCKS)(self._permuted_classes)
        self._epoch = functools.lru_cache(_EPOCHS * len(self._classes))(self._permuted_images)

    def __getitem__(self, position: int) -> int:
        """Number of the image at a position, 0 or more."""
        block, place = divmod(position, len(self._classes))
        chosen = int(self._block(block)[place])
        epoch, place = divmod(block, len(self._members[chosen]))
        return int(self._epoch(chosen, epoch)[place])

    def from_image_on(self, number: int) -> Iterator[int]:
        """The images of the class of an image, beginning with it, in the order of the source."""
        members = self._members[int(np.searchsorted(self._classes, self._labels[number]))]
        place = int(np.searchsorted(members, number))
        return map(int, itertools.chain(members[place:], members[:place]))

    def _permuted_classes(self, block: int) -> np.ndarray:
        return self._generator(_OF_BLOCK, block).permutation(len(self._classes))

    def _permuted_images(self, chosen: int, epoch: int) -> np.ndarray:
        # By label, so that the order of a class does not depend on which others have images.
        return self._generator(_OF_CLASS, int(self._classes[chosen]), epoch).permutation(self._members[chosen])

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=key))
