"""Classes of an evaluation: networks, saved predictions and images are matched by the names of their classes."""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from inception_jax.data.sources import list_names
from inception_jax.errors import UserError

UnknownClasses = Literal["refuse", "skip"]
"""Handling of images whose class no network knows."""
SoftmaxOver = Literal["all", "present"]
"""Classes that the softmax runs over: all of the networks, or those that the evaluated images have."""

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The classes that a network predicts, or that saved predictions are of."""

    path: str
    """Whose they are, for messages."""
    count: int
    names: tuple[str, ...] = ()
    """Names of the first of them, empty where unknown. A run may have more outputs than its data have classes."""

    def all_names(self) -> tuple[str, ...]:
        """A name for each; "class 12" where there is none."""
        return self.names + tuple(f"class {i}" for i in range(len(self.names), self.count))


@dataclasses.dataclass(frozen=True)
class Matching:
    """The common classes of an evaluation, and the way that the images and each network come to them."""

    class_names: tuple[str, ...]
    """Classes of the labels and probabilities."""
    labels: tuple[int, ...]
    """The label of each class of the images; -1 for a class that no network knows."""
    unknown: tuple[str, ...]
    """Names of those classes."""
    orders: tuple[np.ndarray | None, ...]
    """For each network its output of each class, int [classes]; None where it has their order."""
    by_number: tuple[bool, ...]
    """Whether each network was matched by number, because it or the images have no names."""
    notes: tuple[str, ...]
    """Sentences on what was matched by number."""


def match(outputs: Sequence[Outputs], images: Sequence[str], *, source: str, unknown: UnknownClasses) -> Matching:
    """Matches the classes of networks with those of the images.

    Args:
      outputs: classes of the networks.
      images: names of the images' classes, in the order of their labels.
      source: the images, for messages.
      unknown: whether classes of images that no network knows are an error.

    Raises:
      UserError: the networks know different classes; the images have classes that they do not know, or none that they
        know; the number of classes differs where one side has no names.
    """
    named, numbered = _names_of_images(outputs, images)
    notes = [_note(numbered.path, numbered.names, source)] if numbered else []
    by_number = [numbered is not None or not one.names for one in outputs]
    without = [one for one in outputs if not one.names]
    for one in without:
        if one.count != len(named):
            raise UserError(
                f"{source} has {_classes(len(named))}, but the network of {one.path} has {one.count} and no class "
                "names, by which a part of them could be matched; import it with --class-names FILE."
            )
    if without and not _only_numbers(named):
        notes.append(_note(" and ".join(one.path for one in without), named, source))
    networks = [one if one.names else dataclasses.replace(one, names=named) for one in outputs]
    class_names = networks[0].all_names()
    orders = tuple(reorder(networks[0], one) for one in networks)
    labels, missing = _labels(networks[0], named, source, unknown)
    return Matching(class_names, labels, missing, orders, tuple(by_number), tuple(notes))


def reorder(first: Outputs, other: Outputs) -> np.ndarray | None:
    """Numbers of the classes of `first` in `other`: int [classes], or None for the same order.

    Raises:
      UserError: one of them has a class that the other lacks, or two classes of a name in another order.
    """
    ours, theirs = first.all_names(), other.all_names()
    if ours == theirs:
        return None
    for one, mine, another in ((first, ours, theirs), (other, theirs, ours)):
        alone = sorted((Counter(mine) - Counter(another)).keys())
        if alone:
            raise UserError(
                f"{first.path} and {other.path} do not know the same classes: only {one.path} knows "
                f"{list_names('class', alone)}; they cannot be ensembled, evaluate each by itself."
            )
    _check_unique(ours, ours, first.path)
    numbers = {name: number for number, name in enumerate(theirs)}
    return np.array([numbers[name] for name in ours])


def _names_of_images(outputs: Sequence[Outputs], images: Sequence[str]) -> tuple[tuple[str, ...], Outputs | None]:
    """The names of the images' classes, and the network that gave them if the images have only numbers."""
    if _only_numbers(images):
        for one in outputs:
            if one.names and one.count == len(images) and not set(images) <= set(one.names):
                return one.all_names(), one
    return tuple(images), None


def _labels(
    network: Outputs, images: Sequence[str], source: str, unknown: UnknownClasses
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The output of the network for each class of the images, -1 for those that it lacks; and their names."""
    known = network.all_names()
    if known == tuple(images):
        return tuple(range(len(known))), ()
    _check_unique(known, images, network.path)
    _check_unique(images, images, source)
    numbers = {name: number for number, name in enumerate(known)}
    labels = tuple(numbers.get(name, -1) for name in images)
    missing = tuple(name for name in images if name not in numbers)
    if not missing:
        return labels, ()
    without = f"{source} has {list_names('class', missing)}, which {network.path} does not know (it knows "
    without += f"{_shown(known)})"
    if len(missing) == len(images):
        again = "; if they are the same under other names, import the weights again with --class-names FILE"
        raise UserError(f"{without}; they have no class in common{again * (len(images) == network.count)}.")
    if unknown == "refuse":
        raise UserError(f"{without}; leave their images out with --unknown-classes skip.")
    return labels, missing


def _check_unique(names: Sequence[str], used: Sequence[str], whose: str) -> None:
    """UserError where two of `names` are equal, and among those `used`."""
    twice = [name for name, count in Counter(names).items() if count > 1 and name in set(used)]
    if twice:
        raise UserError(f"{whose} has two classes named {twice[0]!r}, so the classes cannot be matched by name.")


def _only_numbers(names: Sequence[str]) -> bool:
    """Whether a data set has no names of its classes: those that sources then give are their numbers."""
    return tuple(names) == tuple(map(str, range(len(names))))


def _note(path: str, names: Sequence[str], source: str) -> str:
    natural = sorted(names, key=_natural_key)
    order = "" if natural == list(names) else f"; note that other programs order them {_shown(natural)}"
    pairs = ", ".join(f"{number} is {name!r}" for number, name in enumerate(names[:_SHOWN]))
    more = ", ..." if len(names) > _SHOWN else ""
    return f"classes of {path} and {source} are matched by number, for want of names: {pairs}{more}{order}"


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers within names by their value, as timm does: 1, 2, 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r"(\d+)", name)]


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2 * _SHOWN} more" if len(names) > 2 * _SHOWN else ""
    return ", ".join(map(repr, names[: 2 * _SHOWN])) + more


def _classes(count: int) -> str:
    return f"{count} class{'es' * (count != 1)}"
