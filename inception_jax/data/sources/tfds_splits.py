"""Splits of a data set of tensorflow-datasets: by their names, or in tfds' syntax."""

import dataclasses
import itertools
from typing import Any

from inception_jax.data.sources.splits import USUAL_NAMES, SplitOptions, kind_of_split
from inception_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TfdsSplits:
    """Splits of training and validation, in tfds' syntax."""

    train: str | None
    """None where there are no training images."""
    validation: str | None
    """None where the validation images are held out of those of training."""
    unused: tuple[str, ...]
    """Other splits."""


def find_splits(infos: Any, name: str, options: SplitOptions) -> TfdsSplits:
    """Finds the splits by `options` or by their names.

    Args:
      infos: splits of the data set, tfds' `SplitDict`.
      name: name of the data set, for messages.
      options: as in `open_source`.

    Raises:
      UserError: a split is invalid or empty, or the two have images in common.
    """
    # Exactly the usual name before those that are only like it.
    by_kind = {
        kind: sorted((split for split in infos if kind_of_split(split) == kind), key=lambda split: split != kind)
        for kind in USUAL_NAMES
    }
    if len(infos) == 1 and not any(by_kind.values()):
        by_kind["train"] = list(infos)
    train = options.train_split or next(iter(by_kind["train"]), None)
    validation = options.validation_split or next(iter(by_kind["validation"] + by_kind["test"]), None)
    ranges = [
        _ranges(infos, name, field, split) if split else []
        for field, split in (("train_split", train), ("validation_split", validation))
    ]
    common = sum(
        max(0, min(ours[2], theirs[2]) - max(ours[1], theirs[1]))
        for ours, theirs in itertools.product(*ranges)
        if ours[0] == theirs[0]
    )
    if common:
        raise UserError(
            f"tfds:{name} would be trained on {train!r} and validated on {validation!r}, which have {common:,} images "
            "in common; set data.train_split and data.validation_split so that they have none, as 'train[:90%]' and "
            "'train[90%:]'."
        )
    used = {split for part in ranges for split, _, _ in part}
    return TfdsSplits(train, validation, tuple(split for split in infos if split not in used))


def _ranges(infos: Any, name: str, field: str, split: str) -> list[tuple[str, int, int]]:
    """Name, first and last + 1 image of each part of a split in tfds' syntax."""
    import tensorflow_datasets as tfds

    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, NotImplementedError, AssertionError) as error:
        lines = [line for line in str(error).splitlines() if not line.startswith("Error parsing")] or [str(error)]
        raise UserError(
            f"data.{field} is {split!r}; it must be one of {', '.join(infos)} of tfds:{name}, or a part such as "
            f"'train[:90%]': {lines[0].rstrip('.')}."
        ) from error
    found = [(p.splitname, p.from_ or 0, infos[p.splitname].num_examples if p.to is None else p.to) for p in parts]
    # Asked for an empty part tfds fails, or gives another one.
    if any(stop <= first for _, first, stop in found):
        raise UserError(f"tfds:{name} has no images in its split {split}.")
    return found
