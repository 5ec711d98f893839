"""Advice at the start of a run whose settings suit a longer run, another batch size or a larger data set."""

from collections.abc import Iterator

from inception_jax.build import Plan
from inception_jax.config import Experiment, OptimConfig, TrainConfig, to_flat_dict
from inception_jax.errors import UserError

DECAYS = ("model.bn_momentum", "optim.ema_decay")
"""Decays of averages over steps: one of d covers 1 / (1 - d) steps."""

DECAYS_OF_OPTIMISERS = {
    "rmsprop": ("optim.rms_decay", "optim.momentum"),
    "sgd": ("optim.momentum",),
    "adamw": (),  # It corrects the bias of its averages, so that they suit any length.
}
"""Decays as `DECAYS`, by `optim.name`."""

PERIODS = {
    "optim.decay_epochs": "so the learning rate never decays",
    "optim.warmup_epochs": "so the learning rate never reaches its value",
}
"""Fields in epochs that do nothing, or nothing else, in a run that is shorter."""

# Adam's, whose steps are about as large as the rate, whatever the gradient.
_RATE_OF_ADAM = 0.001

# Of the paper's run of 100 epochs and decays every two.
_DECAYS_OF_THE_RECIPE = 50


def check_batch(experiment: Experiment, images: int, devices: int) -> None:
    """Raises UserError for a batch of more images than the training set has."""
    batch, source = experiment.train.batch_size, experiment.data.source
    if batch <= images:
        return
    if images < devices:
        raise UserError(
            f"train.batch_size is {batch}: {source} has {images} training images for {devices} devices; it needs one "
            "for each."
        )
    multiple = f" and a multiple of the {devices} devices" if devices > 1 else ""
    raise UserError(
        f"train.batch_size is {batch}, more than the {images} training images of {source}; it must be "
        f"{images // devices * devices} or less{multiple}."
    )


def advise(experiment: Experiment, plan: Plan, recipe: Experiment | None = None) -> Iterator[str]:
    """Lines for the start of a new run: settings of another length or batch, and values that suit.

    Args:
      experiment: the settings of the run.
      plan: its length.
      recipe: the experiment before fields were set by hand, if it is known.
    """
    yield from _long_decays(experiment, plan)
    yield from _long_periods(experiment, plan)
    yield from _rate_of_another_batch(experiment, recipe)
    yield from _rate_of_another_optimiser(experiment)


def _long_decays(experiment: Experiment, plan: Plan) -> Iterator[str]:
    values = to_flat_dict(experiment)
    decays = (*DECAYS, *DECAYS_OF_OPTIMISERS[experiment.optim.name])
    long = {field: 1 / (1 - values[field]) for field in decays if 1 / (1 - values[field]) > plan.steps + 0.5}
    if not long:
        return
    # Where the ramp of `optim.ramped_decay` ends: an average over the last ninth of the run.
    suits = 1 - float(f"{9 / (10 + plan.steps):.1g}")
    listed = ", ".join(f"{field} {values[field]:g} ({steps:,.0f} steps)" for field, steps in long.items())
    flags = " ".join(f"{_flag(field)} {suits:g}" for field in long)
    yield f"averages over more steps than the run's {plan.steps:,}: {listed}; for this length: {flags}"


def _long_periods(experiment: Experiment, plan: Plan) -> Iterator[str]:
    values, epochs = to_flat_dict(experiment), plan.steps / plan.steps_per_epoch
    unused = {"optim.decay_epochs"} if experiment.optim.schedule == "cosine" else set()
    for field, effect in PERIODS.items():
        if field not in unused and values[field] > epochs:
            suits = f"{_flag(field)} {epochs / _DECAYS_OF_THE_RECIPE:.2g}"
            yield f"{field} {values[field]:g} is longer than the run's {epochs:.3g} epochs, {effect}; try {suits}"


def _rate_of_another_batch(experiment: Experiment, recipe: Experiment | None) -> Iterator[str]:
    """The paper's rate, or else the recipe's, with another batch than theirs.

    In proportion, because with the paper's epsilon of 1 its RMSProp moves nearly as plain SGD with momentum does. A
    `reference_batch` has put it in proportion already.
    """
    rate, batch, o = experiment.optim.learning_rate, experiment.train.batch_size, experiment.optim
    if o.name == "adamw" or o.reference_batch is not None:
        return
    own = [("the paper's", OptimConfig.learning_rate, TrainConfig.batch_size)]
    if recipe:
        own += [("the experiment's", recipe.optim.learning_rate, recipe.train.batch_size)]
    for whose, its_rate, its_batch in own:
        if rate == its_rate:
            if batch != its_batch:
                suits = rate * batch / its_batch
                yield (
                    f"learning rate {rate:g} is {whose} for {its_batch} images; in proportion {batch} would have "
                    f"{suits:.2g}: --optim.learning-rate {suits:.2g}"
                )
            return


def _rate_of_another_optimiser(experiment: Experiment) -> Iterator[str]:
    """The paper's rate with AdamW, which it is far too high for."""
    if experiment.optim.name == "adamw" and experiment.optim.learning_rate == OptimConfig.learning_rate:
        yield (
            f"learning rate {OptimConfig.learning_rate:g} is the paper's for RMSProp with its epsilon of 1, not for "
            f"optim.name 'adamw', which takes steps as large as the rate: try --optim.learning-rate {_RATE_OF_ADAM:g}"
        )


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"
