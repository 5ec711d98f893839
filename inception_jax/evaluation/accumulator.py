"""Predictions of several models so far: exact counts, and sums over each image's crops."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Accumulator:
    """Accumulates the probabilities of each image's views, for models that are shown the same views."""

    def __init__(self, sums: Sequence[np.ndarray], views: int):
        """Starts with no image seen.

        Args:
          sums: for each model float32 [N, classes] of zeros, which is written to.
          views: how many of each image there are; one and its mirror image count as one.
        """
        self._sums, self._views = sums, views
        self._labels = np.zeros(len(sums[0]), np.int32)
        self._seen = np.zeros(len(sums[0]), np.int32)
        self._skipped = 0
        self._changed: set[int] = set()

    def add(self, outputs: Sequence[Mapping[str, Any]]) -> None:
        """Adds one batch: for each model what `steps.predict_step` gave."""
        positions, labels, skipped = (np.asarray(outputs[0][name]) for name in ("positions", "labels", "skipped"))
        rows = np.flatnonzero(positions >= 0)
        for sums, output in zip(self._sums, outputs, strict=True):
            probabilities = np.asarray(output["probabilities"])
            # Row by row: a batch may have several of one image.
            for row in rows:
                sums[positions[row]] += probabilities[row]
        self._labels[positions[rows]] = labels[rows]
        np.add.at(self._seen, positions[rows], 1)
        self._skipped += int(skipped.sum())
        self._changed.update(positions[rows].tolist())

    def changes(self) -> dict[str, np.ndarray]:
        """The accumulated values of the images that changed since the last call, as arrays for `restore`."""
        positions = np.array(sorted(self._changed), np.int64)
        self._changed.clear()
        return {
            "positions": positions,
            "sums": np.stack([sums[positions] for sums in self._sums]),
            "labels": self._labels[positions],
            "seen": self._seen[positions],
            "skipped": np.array(self._skipped),
        }

    def restore(self, changes: Mapping[str, np.ndarray]) -> None:
        """Restores what `changes` returned; the results of several calls must be restored in their order."""
        positions = changes["positions"]
        for sums, values in zip(self._sums, changes["sums"], strict=True):
            sums[positions] = values
        self._labels[positions] = changes["labels"]
        self._seen[positions] = changes["seen"]
        self._skipped = int(changes["skipped"])

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Divides the sums into means, in place, when all batches are in.

        Returns:
          Which images were seen, int [images], rising, and their labels. The others were skipped.
        """
        seen = np.flatnonzero(self._seen)
        if (self._seen[seen] != self._views).any() or len(seen) + self._skipped != len(self._seen):
            raise AssertionError(f"{len(seen)} images seen, {self._skipped} skipped, of {len(self._seen)}")
        for sums in self._sums:
            sums /= self._views
        return seen, self._labels[seen]
