"""The start of a run: what it takes over from weights or from an earlier start, and its first state."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from inception_jax import build, checkpoint, config, runs, steps
from inception_jax.benchmark import fitting_batch
from inception_jax.build import Setup
from inception_jax.config import PRETRAINED, Experiment
from inception_jax.data.sources import Source, list_names, with_classes
from inception_jax.errors import UserError
from inception_jax.train.advice import check_batch
from inception_jax.train.class_weights import class_weights
from inception_jax.weights.checkpoint import TrainedModel, load_checkpoint
from inception_jax.weights.transfer import settings, transfer

Report = Callable[[str], None]


def settle(experiment: Experiment, workdir: Path, report: Report) -> tuple[Experiment, TrainedModel | None]:
    """The experiment with the settings that a run takes over, and the network that it starts from, if any.

    A run that has a checkpoint in `workdir` keeps the settings of its start; its first network is not read again. A new
    run takes the settings of `train.init_from`, as far as it has not set them itself. `report` is told which.

    Raises:
      UserError: `workdir` holds another experiment; `train.init_from` cannot be read.
    """
    if (workdir / runs.CONFIG).is_file():
        started = runs.read_run(workdir).experiment
        if checkpoint.exists(workdir):
            resumed = _as_started(experiment, started, workdir)
            for field in ("train_split", "validation_split"):
                before, now = getattr(started.data, field), getattr(resumed.data, field)
                if before != now:
                    report(
                        f"data.{field} was {before!r} and is {now!r} now; if these are not the same images elsewhere, "
                        "the run may be validated on images that it was trained on"
                    )
            return resumed, None
        if config.differences(_take_over(experiment, started), started):
            report(f"{workdir} holds another experiment without a checkpoint, which is replaced")
    path = experiment.train.init_from
    if path is None:
        if experiment.model.name == PRETRAINED:
            raise UserError(
                f"model.name is '{PRETRAINED}', the network of the weights to start from: give a run or an imported "
                "checkpoint with --init-from, or another --model.name."
            )
        return experiment, None
    weights = _read_weights(path)
    taken, overridden = config.split_by_hand(experiment, settings(weights))
    own = config.to_flat_dict(experiment)
    if taken:
        report(f"from {path}: {', '.join(f'{field} {value}' for field, value in taken.items())}")
    if overridden:
        fields = ", ".join(f"{field} {own[field]} ({path}: {value})" for field, value in overridden.items())
        report(f"set by hand, unlike {path}: {fields}")
    return config.with_fields(experiment, taken), weights


def _read_weights(path: str) -> TrainedModel:
    try:
        return load_checkpoint(path)
    except UserError as error:
        raise UserError(f"train.init_from: {error}") from error


def _take_over(experiment: Experiment, started: Experiment) -> Experiment:
    """The experiment with what `started`, the same experiment, had filled in at its start."""
    values = config.to_flat_dict(started)
    filled: dict[str, Any] = {}
    if experiment.train.init_from:
        filled, _ = config.split_by_hand(experiment, values)
    if experiment.model.num_classes is None:
        filled["model.num_classes"] = values["model.num_classes"]
    if experiment.train.replicas == "auto":
        filled["train.replicas"] = values["train.replicas"]
    return config.with_fields(experiment, filled)


def _as_started(experiment: Experiment, started: Experiment, workdir: Path) -> Experiment:
    experiment = _take_over(experiment, started)
    differences = config.differences(experiment, started)
    # Where the images are may change; `same_data` compares what they are.
    differences.pop("data.source", None)
    if differences:
        pairs = differences.items()
        listed = ", ".join(f"{field} is {here!r} here and {there!r} there" for field, (here, there) in pairs)
        raise UserError(
            f"{workdir} holds another experiment: {listed}. Use its settings or another --workdir. To train its "
            f"weights with these settings, start a new run with --init-from {workdir}: its optimiser state, step and "
            "schedule begin anew."
        )
    return experiment


def check_length(setup: Setup, saved: checkpoint.RunCheckpoint, workdir: Path) -> None:
    """Raises UserError if a run with the cosine schedule, which falls over its length, is resumed with another one."""
    if setup.experiment.optim.schedule != "cosine" or saved.training_images is None:
        return
    before, now = build.make_plan(saved.experiment, saved.training_images).steps, setup.plan.steps
    if before != now:
        length = "train.steps" if setup.experiment.train.steps else "train.epochs and the number of training images"
        raise UserError(
            f"{workdir} was started for {before:,} steps, over which its optim.schedule, 'cosine', falls to zero; "
            f"{length} would make it {now:,}: give --train.steps {before}, or start a new run with --init-from "
            f"{workdir}."
        )


def open_images(experiment: Experiment, workdir: Path, held_out: frozenset[int]) -> tuple[Source, Source]:
    """Training and validation images, `held_out` among the latter; UserError where they cannot be opened."""
    try:
        return build.source(experiment, "train", held_out), build.source(experiment, "validation", held_out)
    except UserError as error:
        if not checkpoint.exists(workdir):
            raise
        raise UserError(
            f"the images of {workdir} cannot be opened: {str(error).rstrip('.')}; if they are elsewhere now, give "
            "their place with --data.source."
        ) from error


def complete(
    experiment: Experiment, training: Source, workdir: Path, report: Report
) -> tuple[Experiment, tuple[float, ...] | None]:
    """The experiment with what its images and the machine's memory decide, and a new run's weights by class.

    Raises:
      UserError: the training set has more classes than the network, or fewer images than a batch; a replica does not
        fit the memory; the weights by class are invalid.
    """
    new = not checkpoint.exists(workdir)
    if new or experiment.model.num_classes is None:
        experiment = build.with_classes(experiment, len(training.class_names))
    if new:
        check_batch(experiment, len(training), jax.device_count())
    experiment = fitting_batch.with_replicas(experiment, report)
    return experiment, class_weights(experiment, training) if new else None


def same_data(
    saved: checkpoint.RunCheckpoint, experiment: Experiment, training: Source, validation: Source, report: Report
) -> tuple[Source, Source]:
    """The images with the labels of a run that is resumed; `report` is told how the training set has changed.

    Raises:
      UserError: a class was added, removed or renamed.
    """
    before, now = saved.training_images, len(training)
    if before not in (None, now):
        report(f"the training set had {before:,} images and has {now:,} now, which changes the length of an epoch")
    _report_held_out(saved, experiment, training, validation, report)
    names = saved.class_names
    if not names:
        return training, validation
    changes = {
        "gone": [name for name in names if name not in training.class_names],
        "new": [name for name in training.class_names if name not in names],
    }
    if any(changes.values()):
        listed = ", ".join(
            f"{list_names('class', found)} {'is' if len(found) == 1 else 'are'} {what}"
            for what, found in changes.items()
            if found
        )
        run = saved.path.parent.parent
        raise UserError(
            f"the classes of {experiment.data.source} have changed since {run} was started: {listed}. Restore them, or "
            f"start a new run with --init-from {run}."
        )
    training, validation = (
        with_classes(source, names, origin=experiment.data.source, trained="the run")
        for source in (training, validation)
    )
    return training, validation


def _report_held_out(
    saved: checkpoint.RunCheckpoint, experiment: Experiment, training: Source, validation: Source, report: Report
) -> None:
    """Tells `report` where a resumed run validates on other images than before."""
    before, now, source = saved.held_out, training.held_out, experiment.data.source
    may_be_trained_on = "the run may have been trained on some of its validation images"
    if now and not before and saved.training_images not in (None, len(training)):
        report(f"the checkpoint does not say which images were held out, so that {may_be_trained_on}")
    elif now and before.isdisjoint(now):
        if before:
            report(
                f"none of the {len(before):,} images that were held out has its name in {source}: others are held "
                f"out now, so that {may_be_trained_on}"
            )
    elif now and before - now:
        report(
            f"{len(before - now):,} of the {len(before):,} images that were held out are gone: the validation error "
            "is that of the others"
        )
    elif before and not now and experiment.data.validation_images is None and len(before) != len(validation):
        report(
            f"{len(before):,} images were held out and {source} has {len(validation):,} validation images, so that "
            f"{may_be_trained_on}"
        )


def first_state(
    setup: Setup,
    saved: checkpoint.RunCheckpoint | None,
    weights: TrainedModel | None,
    training: Source,
    report: Report,
) -> steps.TrainState:
    """The state to train from, on the devices: the checkpoint's, another network's weights, or the seed's."""
    if saved:
        return restore(setup, saved)
    variables, train = setup.initial_variables(), setup.experiment.train
    if weights:
        assert train.init_from is not None
        variables, head = transfer(
            weights, setup.model, variables, training.class_names, origin=train.init_from, new_head=train.new_head
        )
        report(f"starts from {train.init_from}; {head}")
        before = checkpoint.held_out(train.init_from)
        # Without any in common these are probably other images.
        if training.held_out & before and training.held_out - before:
            report(
                f"{len(training.held_out - before):,} of the {len(training.held_out):,} validation images are not "
                f"among those that {train.init_from} held out, so that it may have been trained on them"
            )
    return setup.initial_state(variables)


def restore(setup: Setup, saved: checkpoint.RunCheckpoint) -> steps.TrainState:
    """The state of a checkpoint, on the devices."""
    return steps.place(saved.state(setup.phase(unfrozen=saved.unfrozen).state_shapes()))
