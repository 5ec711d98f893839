"""Predictions of a model so far: exact counts, and sums over each image's crops."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class Accumulator:
    """Accumulates the probabilities of each image's views."""

    def __init__(self, images: int, classes: int, views: int):
        """`views` is how many there are of each image; one and its mirror image count as one."""
        self._sums = np.zeros((images, classes), np.float32)
        self._labels = np.zeros(images, np.int32)
        self._seen = np.zeros(images, np.int32)
        self._skipped, self._views = 0, views

    def add(self, output: Mapping[str, Any]) -> None:
        """Adds one batch: what `steps.predict_step` gave."""
        positions, labels, skipped, probabilities = (
            np.asarray(output[name]) for name in ("positions", "labels", "skipped", "probabilities")
        )
        rows = np.flatnonzero(positions >= 0)
        # Row by row: a batch may have several of one image.
        for row in rows:
            self._sums[positions[row]] += probabilities[row]
        self._labels[positions[rows]] = labels[rows]
        np.add.at(self._seen, positions[rows], 1)
        self._skipped += int(skipped.sum())

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The results when all batches are in.

        Returns:
          Which images were seen, int [seen], rising; the others were skipped. Their labels, int32 [seen], and the
          means over their views, float32 [seen, classes].
        """
        seen = np.flatnonzero(self._seen)
        if (self._seen[seen] != self._views).any() or len(seen) + self._skipped != len(self._seen):
            raise AssertionError(f"{len(seen)} images seen, {self._skipped} skipped, of {len(self._seen)}")
        self._sums /= self._views
        return seen, self._labels[seen], self._sums if len(seen) == len(self._sums) else self._sums[seen]
