"""The start of a run: what it takes over from weights or from an earlier start, and its first state."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from inception_jax import checkpoint, config, runs, steps
from inception_jax.build import Setup
from inception_jax.config import Experiment
from inception_jax.data.sources import Source, list_names, with_classes
from inception_jax.errors import UserError
from inception_jax.weights.checkpoint import TrainedModel, load_checkpoint
from inception_jax.weights.transfer import settings, transfer

Report = Callable[[str], None]


def read_weights(experiment: Experiment) -> TrainedModel | None:
    """The network of `train.init_from`; UserError, which names the field, if it cannot be read."""
    path = experiment.train.init_from
    if path is None:
        return None
    if Path(path).is_file():
        raise UserError(
            f"train.init_from is {path}, a file; import it first: inception-jax import {path} OUT --model NAME, "
            "then start from OUT."
        )
    try:
        return load_checkpoint(path)
    except UserError as error:
        raise UserError(f"train.init_from: {error}") from error


def with_settings_of(trained: TrainedModel, experiment: Experiment, report: Report) -> Experiment:
    """The experiment with the preprocessing and the settings that belong to the weights it starts from."""
    taken, overridden = config.split_by_hand(experiment, settings(trained))
    origin, own = experiment.train.init_from, config.to_flat_dict(experiment)
    if taken:
        report(f"  from {origin}: {_list_fields(taken)}")
    if overridden:
        by_hand = ", ".join(f"{field} {own[field]} ({origin}: {value})" for field, value in overridden.items())
        report(f"  set by hand, unlike {origin}: {by_hand}")
    return config.with_fields(experiment, taken)


def _list_fields(values: dict[str, Any]) -> str:
    return ", ".join(f"{field} {value}" for field, value in values.items())


def as_started(experiment: Experiment, workdir: Path) -> Experiment | None:
    """The experiment with what a run took over when it started in `workdir`; None where no checkpoint is there.

    Raises:
      UserError: the run there is of another experiment; the fields that differ are named.
    """
    if not checkpoint.exists(workdir) or not (workdir / runs.CONFIG).is_file():
        return None
    started = runs.read_run(workdir).experiment
    values = config.to_flat_dict(started)
    taken, _ = config.split_by_hand(experiment, values) if experiment.train.init_from else ({}, {})
    if experiment.model.num_classes is None:
        taken["model.num_classes"] = started.model.num_classes
    experiment = config.with_fields(experiment, taken)
    differences = config.differences(experiment, started)
    if differences:
        pairs = differences.items()
        listed = ", ".join(f"{field} is {here!r} here and {there!r} there" for field, (here, there) in pairs)
        raise UserError(
            f"{workdir} holds another experiment: {listed}. Use its settings or another --workdir; to go on from its "
            f"weights with these settings, start a new run with --init-from {workdir} (the optimiser's state, the "
            "step and the schedule begin anew)."
        )
    return experiment


def same_classes(source: Source, saved: checkpoint.RunCheckpoint, workdir: Path, origin: str) -> Source:
    """The training or validation images with the labels that the run was started with.

    Raises:
      UserError: a class is new, or gone, or was renamed.
    """
    if not saved.class_names:
        return source
    gone = [name for name in saved.class_names if name not in source.class_names]
    new = [name for name in source.class_names if name not in saved.class_names]
    if gone or new:
        changes = [f"{list_names('class', names)} {verb}" for names, verb in ((gone, "gone"), (new, "new")) if names]
        raise UserError(
            f"the classes of {origin} changed since {workdir} was started: {', '.join(changes)}. Restore them, or "
            f"start a new run with --init-from {workdir}."
        )
    return with_classes(source, saved.class_names, origin=origin, trained=str(workdir))


def first_state(
    setup: Setup,
    saved: checkpoint.RunCheckpoint | None,
    weights: TrainedModel | None,
    class_names: tuple[str, ...],
    report: Report,
) -> steps.TrainState:
    """The state to train from, on the devices: the checkpoint's, another network's weights, or the seed's."""
    if saved:
        return steps.place(saved.state(setup.state_shapes()))
    variables, train = setup.initial_variables(), setup.experiment.train
    if weights:
        assert train.init_from is not None
        variables, head = transfer(
            weights, setup.model, variables, class_names, origin=train.init_from, new_head=train.new_head
        )
        report(f"  starts from {train.init_from}; {head}")
    return setup.initial_state(variables)
