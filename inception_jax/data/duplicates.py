"""Images with the same bytes: what no decoder sees, and what makes a validation error too low."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

Place = tuple[str, int]
"""Split and number of an image in it."""


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Numbers of images whose bytes are those of another one, each with the names of a first pair."""

    across_splits: int
    """Validation images that are also training images."""
    between_classes: int
    """Images, of both splits, that are also in another class."""
    within_class: int
    """Images beyond the first of each set of equal ones in a class of a split."""
    examples: dict[str, tuple[str, str]]
    """Names of two such images, keyed by the fields that are not 0."""


def digest(image: bytes | np.ndarray) -> int:
    """Hash of an image's bytes; of a million images two differ with the same hash once in 40 million data sets."""
    # The shape as well, because all black arrays of as many pixels have the same bytes.
    shape = str(image.shape).encode() if isinstance(image, np.ndarray) else b""
    data = image.tobytes() if isinstance(image, np.ndarray) else image
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=shape[:16]).digest(), "big")


def find_duplicates(rows: Mapping[str, np.ndarray]) -> tuple[dict[str, int], dict[str, tuple[Place, Place]]]:
    """Counts equal images, as in `Duplicates`, and finds the first pair of each kind.

    Args:
      rows: Digest and label of each image, keyed by split; a label of -1 is a broken image.
    """
    counts = {"across_splits": 0, "between_classes": 0, "within_class": 0}
    pairs: dict[str, tuple[Place, Place]] = {}
    for group in _groups(rows):
        labels = {place: int(rows[place[0]]["label"][place[1]]) for place in group}
        training = [place for place in group if place[0] == "train"]
        others = [place for place in group if place[0] != "train"]
        if training and others:
            counts["across_splits"] += len(others)
            pairs.setdefault("across_splits", (training[0], others[0]))
        if len(set(labels.values())) > 1:
            counts["between_classes"] += len(group)
            second = next(place for place in group if labels[place] != labels[group[0]])
            pairs.setdefault("between_classes", (group[0], second))
        first: dict[tuple[str, int], Place] = {}
        for place in group:
            original = first.setdefault((place[0], labels[place]), place)
            if original is not place:
                counts["within_class"] += 1
                pairs.setdefault("within_class", (original, place))
    return counts, pairs


def _groups(rows: Mapping[str, np.ndarray]) -> Iterator[list[Place]]:
    """Places of equal images, two or more at a time, training images first."""
    splits = list(rows)
    split = np.concatenate([np.full(len(rows[name]), i, np.int8) for i, name in enumerate(splits)])
    number = np.concatenate([np.arange(len(rows[name])) for name in splits])
    intact = np.concatenate([rows[name]["label"] for name in splits]) >= 0
    digests = np.concatenate([rows[name]["digest"] for name in splits])[intact]
    order = np.argsort(digests, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(digests[order]) != 0, [True]]))
    places = np.flatnonzero(intact)[order]
    for first in np.flatnonzero(np.diff(starts) > 1):
        group = places[starts[first] : starts[first + 1]]
        yield [(splits[split[i]], int(number[i])) for i in group]
