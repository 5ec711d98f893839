"""What several models have said of the images so far: exact counts, and sums over each image's crops."""

from collections.abc import Mapping, Sequence

import numpy as np


class Tally:
    """Adds up the probabilities of each image's views, for the models that are shown the same views."""

    def __init__(self, models: int, images: int, classes: int, views: int):
        """Nothing seen yet; `views` is how many each image has (a view and its mirror image are one)."""
        self._views = views
        self._sums = np.zeros((models, images, classes), np.float32)
        self._labels = np.zeros(images, np.int32)
        self._seen = np.zeros(images, np.int32)
        self.skipped = 0
        self._touched: set[int] = set()

    def add(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Adds one batch: for each model what `steps.predict_step` gave."""
        positions, labels = np.asarray(outputs[0]["positions"]), np.asarray(outputs[0]["labels"])
        rows = np.flatnonzero(positions >= 0)
        for sums, output in zip(self._sums, outputs, strict=True):
            probabilities = np.asarray(output["probabilities"])
            # Row by row: an image has several in a batch, and the order of adding decides the last bit.
            for row in rows:
                sums[positions[row]] += probabilities[row]
        self._labels[positions[rows]] = labels[rows]
        np.add.at(self._seen, positions[rows], 1)
        self.skipped += int(np.sum(outputs[0]["skipped"]))
        self._touched.update(positions[rows].tolist())

    def changes(self) -> dict[str, np.ndarray]:
        """All of the images that were added to since this was asked before, as arrays for `restore`."""
        positions = np.array(sorted(self._touched), np.int32)
        self._touched.clear()
        return {
            "positions": positions,
            "sums": self._sums[:, positions],
            "labels": self._labels[positions],
            "seen": self._seen[positions],
            "skipped": np.array(self.skipped),
        }

    def restore(self, changes: Mapping[str, np.ndarray]) -> None:
        """Takes up what `changes` gave; those of one tally in the order in which it gave them."""
        positions = changes["positions"]
        self._sums[:, positions] = changes["sums"]
        self._labels[positions] = changes["labels"]
        self._seen[positions] = changes["seen"]
        self.skipped = int(changes["skipped"])

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """When all batches are in: the positions [N] of the images that were seen, their labels, their probabilities.

        The probabilities, means over each image's views, are float32 [models, N, classes].
        """
        seen = np.flatnonzero(self._seen)
        if (self._seen[seen] != self._views).any() or len(seen) + self.skipped != len(self._seen):
            raise AssertionError(f"{len(seen)} images seen, {self.skipped} skipped, of {len(self._seen)}")
        self._sums /= self._views
        return seen, self._labels[seen], self._sums if len(seen) == len(self._seen) else self._sums[:, seen]
