"""Trained networks for inference: from a run, one of its checkpoints, or an imported or exported checkpoint."""

from pathlib import Path
from typing import Any, NamedTuple

from inception_jax import build, checkpoint, steps
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import UserError
from inception_jax.models import create_model, describe
from inception_jax.models.network import Network
from inception_jax.weights import weight_files


class TrainedModel(NamedTuple):
    """A network for inference, with its weights."""

    model: Network
    """With the dtype of its images, for one device."""
    variables: dict[str, Any]
    """`{"params": ..., "batch_stats": ...}` of NumPy arrays."""
    preprocessing: Preprocessing
    """Preprocessing of its images, and the names of its classes."""


def load_checkpoint(path: str | Path, *, raw: bool = False, best: bool = False) -> TrainedModel:
    """A trained network, its variables (NumPy arrays) and its preprocessing, with the names of its classes.

    All of it is in the checkpoint: no data set is opened.

    Args:
      path: a run (its newest checkpoint), RUN/checkpoints/STEP, RUN/checkpoints/best, or a directory that
        `save_checkpoint` wrote.
      raw: take a run's trained parameters rather than their moving average.
      best: take a run's checkpoint with the lowest validation error rather than its newest.

    Raises:
      UserError: `path` holds no checkpoint that can be read, or is a file of weights, which needs `import`.
    """
    weight_files.refuse(path)
    if not checkpoint.is_exported(path):
        return from_run(checkpoint.read(path, best=best), raw=raw)
    if best:
        raise UserError(f"{path} is one checkpoint, imported or exported; only a run has a best one.")
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


def from_run(saved: checkpoint.RunCheckpoint, *, raw: bool) -> TrainedModel:
    """As `load_checkpoint`, for an open checkpoint of a run."""
    setup = build.build(saved.experiment).phase(unfrozen=saved.unfrozen)
    state = saved.state(setup.state_shapes())
    params = steps.parameter_sets(state)["raw" if raw else "averaged"]
    preprocessing = Preprocessing.from_config(saved.experiment.data, saved.class_names)
    # For inference it follows the dtype of its images, and there are no other devices to share statistics with.
    model = setup.model.clone(bn_axis_name=None, dtype=None, frozen=())
    return TrainedModel(model, {"params": params, "batch_stats": state.batch_stats}, preprocessing)
