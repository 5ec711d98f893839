"""Trained networks for inference: from a run, one of its checkpoints, or an imported or exported checkpoint."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import flax

from inception_jax import build, checkpoint, steps
from inception_jax.config import Experiment
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import UserError
from inception_jax.models import create_model, describe
from inception_jax.models.network import Network


class TrainedModel(NamedTuple):
    """A network for inference, with its weights."""

    model: Network
    """With the dtype of its images, for one device."""
    variables: dict[str, Any]
    """`{"params": ..., "batch_stats": ...}` of NumPy arrays."""
    preprocessing: Preprocessing
    """What its images need, and the names of its classes."""


def load_checkpoint(path: str | Path, *, raw: bool = False) -> TrainedModel:
    """The network, its variables (NumPy arrays) and how its images must be prepared.

    Args:
      path: a run (its newest checkpoint), RUN/checkpoints/STEP, or a directory that `save_checkpoint` wrote.
      raw: take a run's parameters as they are trained rather than averaged.

    Raises:
      UserError: `path` holds no checkpoint that can be read.
    """
    if not checkpoint.is_exported(path):
        saved = checkpoint.read(path)
        trained = from_run(saved, raw=raw)
        return trained._replace(preprocessing=_with_class_names(trained.preprocessing, saved.experiment))
    variables, metadata = checkpoint.load_variables(path)
    try:
        model, preprocessing = create_model(**metadata["model"]), Preprocessing.from_dict(metadata["preprocessing"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}/{checkpoint.METADATA} describes no network of this version: {error}") from error
    return TrainedModel(model, variables, preprocessing)


def save_checkpoint(path: str | Path, model: Network, variables: dict[str, Any], preprocessing: Preprocessing) -> None:
    """Writes a network for inference atomically: params, batch_stats, and model and preprocessing as JSON."""
    kept = {name: variables[name] for name in ("params", "batch_stats")}
    metadata = {"model": describe(model), "preprocessing": preprocessing.to_dict()}
    checkpoint.save_variables(path, kept, metadata)


def transfer(path: str | Path, model: Network, initial: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A checkpoint's variables for `model`, and whether the classifier stayed that of `initial`.

    It does where the numbers of classes differ. An auxiliary head is taken from where there is one.

    Raises:
      UserError: the checkpoint is of another network; every entry that does not fit is named.
    """
    loaded = load_checkpoint(path).variables
    ours, theirs = (
        flax.traverse_util.flatten_dict({k: v[k] for k in ("params", "batch_stats")}) for v in (initial, loaded)
    )
    heads = {entry for entry in ours if "classifier" in entry}
    new_head = any(entry not in theirs or theirs[entry].shape != ours[entry].shape for entry in heads)
    taken = {entry for entry in ours if not (new_head and entry in heads)}
    taken -= {entry for entry in taken if entry[1] == "aux_head" and entry not in theirs}
    misfits = [
        f"{'/'.join(entry)}: {ours[entry].shape} here, {theirs[entry].shape if entry in theirs else 'missing'} there"
        for entry in sorted(taken)
        if entry not in theirs or theirs[entry].shape != ours[entry].shape
    ]
    surplus = {entry for entry in theirs if entry not in ours and entry[1] not in ("aux_head", "classifier")}
    misfits += [f"{'/'.join(entry)}: {theirs[entry].shape} there, none here" for entry in sorted(surplus)]
    if misfits:
        what = describe(model)["name"]
        raise UserError("\n  ".join([f"{path} does not fit this {what}; {len(misfits)} entries differ:", *misfits]))
    return flax.traverse_util.unflatten_dict(ours | {entry: theirs[entry] for entry in taken}), new_head


def from_run(saved: checkpoint.RunCheckpoint, *, raw: bool) -> TrainedModel:
    """As `load_checkpoint`, for an open checkpoint of a run; without the class names, which its data source knows."""
    d, setup = saved.experiment.data, build.build(saved.experiment)
    state = saved.state(setup.state_shapes())
    params = steps.parameter_sets(state)["raw" if raw else "averaged"]
    variables = {"params": params, "batch_stats": state.batch_stats}
    # For use it follows its images' dtype, and there are no other devices to share statistics with.
    preprocessing = Preprocessing(image_size=d.image_size, central_fraction=d.central_fraction, resize=d.resize)
    return TrainedModel(setup.model.clone(bn_axis_name=None, dtype=None), variables, preprocessing)


def _with_class_names(preprocessing: Preprocessing, experiment: Experiment) -> Preprocessing:
    try:
        names = build.source(experiment, "train").class_names
    except UserError:
        return preprocessing  # The images need not be at hand to use what was learnt from them.
    return dataclasses.replace(preprocessing, class_names=names)
