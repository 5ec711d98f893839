"""Splits of a source: their usual names, and the part that is held out where there is only one."""

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Self

import numpy as np

from inception_jax.config import DataConfig

SPLITS = ("train", "validation", "evaluation")
"""Splits that are opened. That for evaluation is the validation split, or all images where they are not split."""

USUAL_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""Names of the folders or parts of a data set, in any case and also with "set", "data" or "images" at their end."""

_ENDING = re.compile(r"[-_ ]?(set|data|dataset|images|imgs|split)$")


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """Names of the splits, and the part held out where there is only one."""

    validation_fraction: float = DataConfig.validation_fraction
    train_split: str | None = None
    validation_split: str | None = None
    held_out: frozenset[int] = frozenset()
    """Digests of the names of the images that a run has held out before, and which are held out again."""

    @classmethod
    def from_config(cls, data: DataConfig, held_out: frozenset[int] = frozenset()) -> Self:
        """The options of a data section."""
        return cls(data.validation_fraction, data.train_split, data.validation_split, held_out)


def kind_of_split(name: str) -> str | None:
    """The key of `USUAL_NAMES` that a folder or a part of a data set is named after, None where there is none."""
    stem = _ENDING.sub("", name.lower())
    return next((kind for kind, names in USUAL_NAMES.items() if stem in names), None)


def choose(split: str, train: str | None, validation: str | None) -> tuple[str | None, str | None]:
    """Location of a split's images, and the part of them that it takes.

    Args:
      split: one of `SPLITS`.
      train: name of the training images; None where there are none.
      validation: name of the validation images; None where they are held out of the training images.

    Returns:
      `train` or `validation`; and "train" or "validation" where the images there are to be split, None for all.
    """
    if split == "train":
        return train, "train" if validation is None else None
    if validation is not None:
        return validation, None
    return train, "validation" if split == "validation" else None


def held_out(numbers: np.ndarray, fraction: float) -> np.ndarray:
    """Whether each image is held out for validation: a `fraction` of each class, spread evenly, always the same ones.

    The first image of a class never is, and the second always: with 0.1 the second, the twelfth and so on.

    Args:
      numbers: int [N], the number of each image within its class, from 0.
      fraction: above 0 and below 1.

    Returns:
      bool [N].
    """
    # Exact, as the fraction is written: 0.1 of the 70 before the 71st is 7, not 7.000000000000001.
    exact = Fraction(str(fraction))
    top, bottom = exact.numerator, exact.denominator
    # The first k + 1 images have ceil(k * fraction) that are held out.
    before, after = (-(-(numbers - shift) * top // bottom) for shift in (1, 0))
    return (after > before) & (numbers > 0)


def hold_out(
    names: Sequence[str], labels: Sequence[int] | np.ndarray, options: SplitOptions
) -> tuple[np.ndarray, frozenset[int]]:
    """Whether each image is held out for validation, and the digests of the names of those that are.

    Held out are the images of `options.held_out`, so that a run which is resumed validates on the same images when
    others were added or removed. Where there is none of these, it is a fraction of each class, as in `held_out`.

    Args:
      names: Names of the images, which do not depend on the place of the source.
      labels: Labels of the images.
      options: As in `open_source`.

    Returns:
      bool [N], and the digests.
    """
    digests = np.array([_digest(name) for name in names], np.uint64)
    chosen = np.isin(digests, np.array(sorted(options.held_out), np.uint64))
    if not chosen.any():
        chosen = held_out(numbers_in_class(np.asarray(labels, np.int64)), options.validation_fraction)
    return chosen, frozenset(digests[chosen].tolist())


def _digest(name: str) -> int:
    # Composed, because a copy on another disk may have decomposed accents.
    data = unicodedata.normalize("NFC", name).encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def numbers_in_class(labels: np.ndarray) -> np.ndarray:
    """Number of each image among those of its label, from 0, in their order: int [N] -> int [N]."""
    order = np.argsort(labels, kind="stable")
    grouped = labels[order]
    starts = np.searchsorted(grouped, grouped)
    numbers = np.empty(len(labels), np.int64)
    numbers[order] = np.arange(len(labels)) - starts
    return numbers


def part(labels: Sequence[int] | np.ndarray, fraction: float, which: str) -> np.ndarray:
    """Numbers of the images of "train" or "validation" in a set that is not split, by their labels."""
    chosen = held_out(numbers_in_class(np.asarray(labels, np.int64)), fraction)
    return np.flatnonzero(chosen == (which == "validation"))


def describe(split: str, train: str | None, validation: str | None, fraction: float, unused: Iterable[str] = ()) -> str:
    """Origin of a source's images, in words; the arguments as for `choose`, "" for the source itself."""
    found = [f"training images in {train}"] if train and split != "evaluation" else []
    if validation is not None:
        found += [f"validation images in {validation}"]
    elif split == "evaluation":
        found += [f"all images in {train}" if train else "all images"]
    else:
        found += [f"{100 * fraction:g} % of each class held out for validation"]
    found += [f"{name} not used" for name in unused]
    return ", ".join(found)
