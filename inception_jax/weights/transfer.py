"""Transfer learning: the settings and the variables that a new run takes from a trained network."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax
import numpy as np

from inception_jax.data.sources import list_names
from inception_jax.errors import UserError
from inception_jax.models import describe
from inception_jax.models.network import Network
from inception_jax.weights.checkpoint import TrainedModel


def settings(trained: TrainedModel) -> dict[str, Any]:
    """The settings of an experiment that belong to the weights, by the names of `config.to_flat_dict`."""
    preprocessing, described = trained.preprocessing, describe(trained.model)
    found = {
        f"data.{field}": getattr(preprocessing, field)
        for field in ("image_size", "central_fraction", "resize", "mean", "std")
    }
    network = ("name", "width", "depths", "count_include_pad", "residual_scales")
    fields = [field for field in network if field in described]
    return {**{f"model.{field}": described[field] for field in fields}, **found}


class Transferred(NamedTuple):
    """The initial variables of a new run."""

    variables: dict[str, Any]
    head: str
    """Origin of the classifier, in words."""


def transfer(
    trained: TrainedModel,
    model: Network,
    initial: Mapping[str, Any],
    class_names: Sequence[str],
    *,
    origin: str,
    new_head: bool = False,
) -> Transferred:
    """A trained network's variables for `model`.

    The part of the head that belongs to a class is kept where the trained network has a class of that name. Without
    names the head is kept where it has as many classes. An auxiliary head that the trained network lacks is new.

    Args:
      trained: the network to start from.
      model: the network of the new run.
      initial: its variables as they are drawn, for all that is new.
      class_names: its classes in the order of the labels.
      origin: path of the trained network, for messages.
      new_head: initialise the whole head anew.

    Raises:
      UserError: the checkpoint is of another network.
    """
    _check_same_network(trained.model, model, origin)
    ours, theirs = (
        flax.traverse_util.flatten_dict({k: v[k] for k in ("params", "batch_stats")})
        for v in (initial, trained.variables)
    )
    columns, words = _match_head(trained, class_names, origin, new_head)
    taken: dict[tuple[str, ...], Any] = {}
    for entry, array in ours.items():
        if entry[1] == "aux_head" and entry not in theirs:
            continue
        if "classifier" in entry:
            if entry in theirs:
                taken[entry] = _copy_columns(np.array(array), theirs[entry], columns)
            continue
        if entry not in theirs or theirs[entry].shape != array.shape:
            there = theirs[entry].shape if entry in theirs else "missing"
            raise UserError(
                f"{origin} does not fit this network: {'/'.join(entry)} is {array.shape} here and {there} there."
            )
        taken[entry] = theirs[entry]
    return Transferred(flax.traverse_util.unflatten_dict(ours | taken), words)


def _check_same_network(theirs: Network, ours: Network, origin: str) -> None:
    """Raises UserError, naming the flags that would fit, where name, width or depths differ."""
    there, here = describe(theirs), describe(ours)
    differ = [field for field in ("name", "width") if there[field] != here[field]]
    if [name for name, _ in theirs.stages()] != [name for name, _ in ours.stages()]:
        differ.append("depths")
    if not differ:
        return
    known = ", ".join(f"{field} {_in_words(there[field])}" for field in differ)
    run = ", ".join(f"{field} {_in_words(here[field])}" for field in differ)
    flags = " ".join(f"--model.{field} {_as_flag(there[field])}" for field in differ)
    raise UserError(f"{origin} holds a network of {known}, but the run has one of {run}; give {flags}.")


def _in_words(value: Any) -> str:
    return "as drawn" if value is None else str(value)


def _as_flag(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _match_head(
    trained: TrainedModel, class_names: Sequence[str], origin: str, new_head: bool
) -> tuple[dict[int, int], str]:
    """For each class that keeps its part of the head, the number of its output there; and what that means in words."""
    if new_head:
        return {}, "the head is new (train.new_head)"
    if "classifier" not in trained.variables["params"]:
        return {}, f"the head is new: {origin} has none"
    preprocessing = trained.preprocessing
    offset, names = preprocessing.label_offset, preprocessing.class_names
    outputs = trained.model.num_classes - offset
    if not names and outputs == len(class_names):
        columns = {i: i + offset for i in range(outputs)}
        return columns, f"the head is kept by number: {origin} has no class names (--train.new-head draws a new one)"
    if not names:
        return {}, f"the head is new: {origin} has {outputs} classes without names, the data {len(class_names)}"
    if tuple(class_names) == names:
        return {i: i + offset for i in range(outputs)}, f"the head is kept: its {outputs} classes are those of the data"
    counts = collections.Counter(names)
    numbers = {name: i + offset for i, name in enumerate(names) if counts[name] == 1}
    columns = {i: numbers[name] for i, name in enumerate(class_names) if name in numbers}
    new = [name for i, name in enumerate(class_names) if i not in columns]
    if not columns:
        return {}, f"the head is new: {origin} knows none of the {len(class_names)} classes by name"
    if not new:
        return columns, f"the head is kept by name for all {len(columns)} classes, of {outputs} in {origin}"
    return columns, f"the head is kept by name for {len(columns)} classes and new for {list_names('class', new)}"


def _copy_columns(ours: np.ndarray, theirs: np.ndarray, columns: Mapping[int, int]) -> np.ndarray:
    """Copies outputs, which are the last axis."""
    here, there = list(columns), list(columns.values())
    ours[..., here] = theirs[..., there]
    return ours
