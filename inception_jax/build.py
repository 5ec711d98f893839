"""Build the model, optimiser, steps and batches of an experiment."""

import dataclasses
import functools
import re
from collections.abc import Generator, Sequence
from typing import Any

import jax
import optax

from inception_jax import optim, steps
from inception_jax.config import DataConfig, Experiment
from inception_jax.data import colour, evaluation_batches, training_batches
from inception_jax.data.prefetch import Loading, Shard
from inception_jax.data.sources import Source, open_data, sample
from inception_jax.errors import UserError
from inception_jax.models import create_model
from inception_jax.models.initialize import initial_variables, variable_shapes
from inception_jax.models.network import Network
from inception_jax.system.cores import available_cores
from inception_jax.system.progress import say


@dataclasses.dataclass(frozen=True)
class Plan:
    """Length of a run, and the steps after which it is evaluated."""

    steps: int
    steps_per_epoch: float
    evaluations: frozenset[int]
    unfreeze_step: int | None
    """Step after which the frozen stages are trained too; None is never."""

    def is_unfrozen(self, step: int) -> bool:
        """Whether the frozen stages are trained too after `step`."""
        return self.unfreeze_step is not None and step >= self.unfreeze_step


IMAGENET_IMAGES = 1_281_167

ALL_STAGES = "all"
"""Stands for all stages, but not the head, in `train.freeze`."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """Model, optimiser and steps of an experiment; nothing is compiled yet."""

    experiment: Experiment
    plan: Plan
    model: Network
    schedule: optax.Schedule
    """Step -> factor applied to the learning rate, `config.learning_rate`."""
    optimizer: optax.GradientTransformation
    train_step: Any
    """(state, batch) -> (state, metrics) on all devices; the state's memory is donated."""
    evaluate_step: Any
    """(params, batch_stats, batch) -> sums on all devices."""
    unfrozen: "Setup | None" = None
    """The setup of all stages, if the frozen ones are trained too after `plan.unfreeze_step`."""

    def initial_variables(self) -> dict[str, Any]:
        """Initial variables drawn from the experiment's seed, on the host."""
        return initial_variables(self.model, self.experiment.seed, self.experiment.data.image_size)

    def initial_state(self, variables: dict[str, Any] | None = None) -> steps.TrainState:
        """State before the first step, on the devices; `variables` default to `initial_variables()`."""
        variables = self.initial_variables() if variables is None else variables
        return steps.place(self._create_state(variables))

    def phase(self, *, unfrozen: bool) -> "Setup":
        """This setup, or that of the second phase of a run, in which the frozen stages are trained too."""
        return self.unfrozen if unfrozen and self.unfrozen else self

    def unfreeze(self, state: steps.TrainState) -> steps.TrainState:
        """The state of the second phase from one of the first, on the devices."""
        return steps.place(steps.unfreeze(state, self.optimizer))

    def state_shapes(self) -> steps.TrainState:
        """Shapes of the state, the template to restore a checkpoint into."""
        variables = variable_shapes(self.model, self.experiment.data.image_size)
        return jax.eval_shape(self._create_state, variables)

    def _create_state(self, variables: dict[str, Any]) -> steps.TrainState:
        return steps.create_state(variables, self.optimizer, self.experiment.seed, self.model.frozen)


def build(
    experiment: Experiment,
    training_images: int = IMAGENET_IMAGES,
    class_weights: Sequence[float] | None = None,
) -> Setup:
    """Builds the `Setup` of an experiment.

    Args:
      experiment: a checked experiment with `model.num_classes` set, see `with_classes`.
      training_images: images per epoch, which determine the schedule and the plan.
      class_weights: factor on the loss of each class's images, which `train.class_weights` gives for a training set
        (`train/class_weights.py`); None leaves the loss as it is, as for a setup that trains no run.
    """
    plan = make_plan(experiment, training_images)
    unfrozen = make_model(experiment)
    model = unfrozen.clone(frozen=frozen_stages(unfrozen, experiment.train.freeze))
    schedule = optim.learning_rate_schedule(experiment.optim, plan.steps_per_epoch, plan.steps)
    optimizer = optim.make_optimizer(experiment.optim, schedule, experiment.train.batch_size)
    setup = Setup(
        experiment=experiment,
        plan=plan,
        model=model,
        schedule=schedule,
        optimizer=optimizer,
        train_step=make_train_step(experiment, model, optimizer, class_weights),
        evaluate_step=steps.parallel(
            steps.evaluate_step,
            model=model,
            preprocess=functools.partial(colour.to_network_range, mean=experiment.data.mean, std=experiment.data.std),
        ),
    )
    if plan.unfreeze_step is None:
        return setup
    train_step = make_train_step(experiment, unfrozen, optimizer, class_weights)
    return dataclasses.replace(setup, unfrozen=dataclasses.replace(setup, model=unfrozen, train_step=train_step))


def make_plan(experiment: Experiment, images: int) -> Plan:
    """Plan of a run over a training set of `images` images."""
    steps_per_epoch = images / experiment.train.batch_size
    total = experiment.train.steps or max(1, round(experiment.train.epochs * steps_per_epoch))
    every = experiment.evaluation.every_epochs * steps_per_epoch
    evaluations = {round(k * every) for k in range(1, int(total / every) + 1)} - {0}
    epoch = experiment.train.unfreeze_epoch
    if epoch is not None and experiment.train.freeze is None:
        raise UserError(f"train.unfreeze_epoch is {epoch:g}, but train.freeze names no stages; set both or neither.")
    unfreeze = None if epoch is None else max(1, round(epoch * steps_per_epoch))
    return Plan(total, steps_per_epoch, frozenset(evaluations | {total}), unfreeze)


def source(experiment: Experiment, split: str, held_out: frozenset[int] = frozenset()) -> Source:
    """Source of one split, as in `open_source`, limited to the experiment's number of images.

    Args:
      experiment: whose images these are.
      split: as in `open_source`.
      held_out: the images that the run has held out before, as in `SplitOptions`.

    Raises:
      UserError: as `open_source`, or there are fewer images than the experiment takes.
    """
    d = experiment.data
    images = open_data(d, split, held_out)
    field, count = (
        ("training_images", d.training_images) if split == "train" else ("validation_images", d.validation_images)
    )
    try:
        return images if count is None else sample(images, count)
    except UserError as error:
        raise UserError(f"data.{field}: {d.source}: {error}") from None


def with_classes(experiment: Experiment, classes: int) -> Experiment:
    """Sets an unset `model.num_classes` to the data set's; UserError if one that is set is too small."""
    requested = experiment.model.num_classes
    if requested is not None and requested < classes:
        raise UserError(f"model.num_classes is {requested}, but {experiment.data.source} has {classes} classes.")
    return dataclasses.replace(
        experiment, model=dataclasses.replace(experiment.model, num_classes=requested or classes)
    )


def frozen_stages(model: Network, names: str | None) -> tuple[str, ...]:
    """The stages that `train.freeze` names, in the order of the network; UserError if it names another."""
    stages = [stage for stage, _ in model.stages()]
    if names is None:
        return ()
    if names == ALL_STAGES:
        return tuple(stages)
    found: set[str] = set()
    for name in (part.strip() for part in names.split(",")):
        named = [stage for stage in stages if stage == name or stage.startswith(f"{name}_")]
        if not named:
            groups = dict.fromkeys(re.sub(r"_\d+$", "", stage) for stage in stages)
            raise UserError(f"train.freeze names {name!r}; the network has {', '.join(groups)}, and all.")
        found.update(named)
    return tuple(stage for stage in stages if stage in found)


def local_replicas(experiment: Experiment) -> int:
    """Replicas on each device; `train.replicas` must not be auto, see `fitting_batch.with_replicas`."""
    replicas = experiment.train.replicas
    return 1 if replicas is None else int(replicas) // jax.device_count()


def check_batches(experiment: Experiment) -> None:
    """Raises UserError unless the batch sizes are multiples of the number of devices, and replicas fit them."""
    sizes = {"train.batch_size": experiment.train.batch_size, "evaluation.batch_size": experiment.evaluation.batch_size}
    for field, size in sizes.items():
        try:
            local_shard().rows(size)
        except UserError as error:
            raise UserError(f"{field}: {error}") from None
    replicas, devices = experiment.train.replicas, jax.device_count()
    if not isinstance(replicas, int):
        return
    batch = experiment.train.batch_size
    if replicas % devices or batch % replicas:
        raise UserError(
            f"train.replicas is {replicas}; it must {f'be a multiple of the {devices} devices and ' * (devices > 1)}"
            f"divide train.batch_size, {batch}."
        )
    if replicas > devices and experiment.model.bn_statistics == "global":
        raise UserError(
            f"model.bn_statistics is 'global', but train.replicas is {replicas}, more than the number of devices, "
            f"{devices}: their statistics are computed one after another; use 'replica', or {devices} replicas."
        )


def make_model(experiment: Experiment) -> Network:
    """The network of an experiment; `model.num_classes` must be set."""
    m = experiment.model
    return create_model(
        m.name,
        num_classes=m.num_classes or 1000,
        dtype=m.dtype,
        width=m.width,
        depths=m.depths,
        residual_scales=m.residual_scales,
        dropout_rate=m.dropout_rate,
        aux_head=m.aux_head,
        bn_momentum=m.bn_momentum,
        bn_axis_name=steps.AXIS if m.bn_statistics == "global" else None,
        count_include_pad=m.count_include_pad,
        remat=experiment.train.remat,
    )


def make_train_step(
    experiment: Experiment,
    model: Network,
    optimizer: optax.GradientTransformation,
    class_weights: Sequence[float] | None = None,
) -> Any:
    """The training step of `Setup`."""
    return steps.parallel(
        steps.train_step,
        donate=True,
        model=model,
        optimizer=optimizer,
        preprocess=functools.partial(
            _distorted_input if experiment.data.colour else _plain_input, data=experiment.data
        ),
        label_smoothing=experiment.train.label_smoothing,
        aux_weight=experiment.train.aux_weight,
        class_weights=class_weights,
        stage_norms=experiment.train.stage_norms,
        replicas=local_replicas(experiment),
    )


def train_batches(experiment: Experiment, images: Source, start: int) -> Generator[dict[str, Any], None, None]:
    """Training batches `start`, `start` + 1, ...: the rows of this process."""
    return training_batches(
        images,
        experiment.data,
        batch_size=experiment.train.batch_size,
        seed=experiment.seed,
        start=start,
        shard=local_shard(),
        loading=make_loading(experiment.data),
    )


def validation_batches(experiment: Experiment, images: Source) -> Generator[dict[str, Any], None, None]:
    """Batches of one pass over the validation images: the rows of this process."""
    devices = jax.device_count()
    return evaluation_batches(
        images,
        experiment.data,
        # More rows than images would be padding.
        batch_size=min(experiment.evaluation.batch_size, -(-len(images) // devices) * devices),
        shard=local_shard(),
        loading=make_loading(experiment.data),
    )


def local_shard() -> Shard:
    """The part of every batch that this process loads."""
    return Shard(jax.process_index(), jax.process_count(), jax.local_device_count())


def make_loading(data: DataConfig) -> Loading:
    """Threads, prefetching and error handling from the configuration; each skipped image is logged once."""
    return Loading(data.threads or available_cores(), data.prefetch, data.on_error, say_skipped)


def _distorted_input(key: jax.Array, images: jax.Array, data: DataConfig) -> jax.Array:
    distorted = colour.distort_colour(key, images, strength=data.colour_strength)
    return colour.to_network_range(distorted, data.mean, data.std)


def _plain_input(key: jax.Array, images: jax.Array, data: DataConfig) -> jax.Array:
    return colour.to_network_range(images, data.mean, data.std)


@functools.cache  # Once per image, not in every epoch.
def say_skipped(message: str) -> None:
    """Logs why an image is skipped."""
    say(f"  skipped: {message}")
