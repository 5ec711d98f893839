"""Weights of the loss by class, from `train.class_weights` and the training set."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from inception_jax.config import Experiment
from inception_jax.data.sources import Source, class_name, list_names
from inception_jax.errors import UserError

_NONE, _BALANCED = "none", "balanced"

# Classes that are listed one by one.
_MOST_LISTED = 10

_Entries = tuple[tuple[str, str], ...]
"""Names and numbers of the entries of a table."""

_SMALLEST, _LARGEST = (float(bound) for bound in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))


def class_weights(experiment: Experiment, training: Source) -> tuple[float, ...] | None:
    """Factor on the loss of each class's images, in the order of the labels; None is no factor.

    Balanced weights are images / (classes * images of the class), whose mean over the training images is 1. Classes
    without images are not counted.

    Raises:
      UserError: the table names no class or one twice, a number is not above 0 and finite, or both the loss and the
        sampling are balanced.
    """
    text = experiment.train.class_weights
    if text == _NONE:
        return None
    if text != _BALANCED:
        table = _read_table(text, training.class_names)
        return tuple(table.get(name, 1.0) for name in training.class_names)
    if experiment.data.sampling == "balanced":
        raise UserError(
            "train.class_weights and data.sampling are both 'balanced', which would balance the classes twice; set one."
        )
    labels = training.labels
    counts = np.bincount(labels[labels >= 0], minlength=training.num_classes)
    images, classes = int(counts.sum()), int(np.count_nonzero(counts))
    return tuple(images / (classes * count) if count else 1.0 for count in counts.tolist())


def describe(weights: Sequence[float], class_names: Sequence[str], *, resumed: bool) -> str:
    """The weights on one line; `resumed` where they are those of an earlier start of the run."""
    named = list(zip(class_names, weights, strict=True))
    usual = Counter(weights).most_common(1)[0][0]
    listed = named if len(named) <= _MOST_LISTED else [pair for pair in named if pair[1] != usual]
    others = f", the others {usual:.4g}" if len(listed) < len(named) else ""
    if len(listed) > _MOST_LISTED:
        (first, least), (last, most) = (kind(named, key=lambda pair: pair[1]) for kind in (min, max))
        words = f"from {least:.4g} for '{first}' to {most:.4g} for '{last}'"
    else:
        words = ", ".join(f"'{name}' {weight:.4g}" for name, weight in listed) + others
    return f"class weights{' of the start of the run' * resumed}: {words}"


def describe_sampling(training: Source) -> str:
    """Balanced sampling of a training set on one line."""
    labels = training.labels
    counts = Counter(labels[labels >= 0].tolist())
    share = len(training) / max(1, len(counts))
    extremes = [kind(counts, key=lambda label: counts[label]) for kind in (min, max)] if counts else []
    times = [f"each of '{training.class_names[label]}' {share / counts[label]:.3g} times" for label in extremes]
    absent = [name for label, name in enumerate(training.class_names) if label not in counts]
    never = f"; {list_names('class', absent)} without images {'is' if len(absent) == 1 else 'are'} never drawn"
    return (
        f"balanced sampling: in an epoch {share:,.0f} images of each class, {' and '.join(times)}"
        f"{never if absent else ''}"
    )


def _read_table(text: str, class_names: Sequence[str]) -> dict[str, float]:
    """Weights by class of a table such as cat=2,dog=0.5; UserError if it is none."""
    readings, rest = _read_entries(class_name(text.strip()), tuple(dict.fromkeys(class_names)))
    if not readings:
        entry = rest.partition(",")[0].strip()
        where = f", which has {entry!r}" if entry not in ("", text) else ""
        raise UserError(
            f"train.class_weights is {text!r}{where}; it must be none, balanced, or a table such as cat=2,dog=0.5 of "
            f"{list_names('class', class_names, most=20)}."
        )
    if len(readings) > 1:
        raise UserError(
            f"train.class_weights is {text!r}, which can be read in several ways, because of names with commas and "
            "equals signs; write the classes in another order."
        )
    twice = [name for name, count in Counter(name for name, _ in readings[0]).items() if count > 1]
    if twice:
        raise UserError(f"train.class_weights names {list_names('class', twice)} more than once; give each one weight.")
    return {name: _number(name, number) for name, number in readings[0]}


def _read_entries(text: str, names: Sequence[str]) -> tuple[list[_Entries], str]:
    """Ways to read a table as names and numbers, two at most, and what none of them could read.

    A name ends only where a known one does, since it may have commas and equals signs itself.
    """
    ways: dict[int, list[_Entries]] = {0: [()]}  # by the place of the next entry
    for start in [0, *(place + 1 for place, character in enumerate(text) if character == ",")]:
        begin = len(text) - len(text[start:].lstrip())
        for name in [name for name in names if start in ways and text.startswith(f"{name}=", begin)]:
            number = text[begin + len(name) + 1 :].partition(",")[0]
            if "=" not in number:
                after = begin + len(name) + 1 + len(number) + 1
                longer: list[_Entries] = [(*entries, (name, number)) for entries in ways[start]]
                ways[after] = [*ways.get(after, []), *longer][:2]
    return ways.pop(len(text) + 1, []), text[max(ways) :]


def _number(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not _SMALLEST <= weight <= _LARGEST:
        raise UserError(
            f"train.class_weights is {text.strip()!r} for '{name}'; it must be a number above 0, finite in float32."
        )
    return weight
