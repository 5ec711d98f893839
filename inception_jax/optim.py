"""Optimisers as optax chains, the paper's by default, with learning rate schedules and averaged parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from inception_jax.config import OptimConfig, learning_rate

HEAD = ("classifier", "aux_head")
"""Parameters whose learning rate has the factor `head_rate`."""


def learning_rate_schedule(config: OptimConfig, steps_per_epoch: float, steps: int) -> optax.Schedule:
    """Schedule of the factor on `learning_rate` in a run of `steps` steps.

    Exponential: `decay_rate ** floor(epoch / decay_epochs)`, whatever the length of the run; without `staircase` the
    exponent is not rounded. Cosine: `(1 + cos(pi t)) / 2` with t from 0 to 1 over the steps after the warm-up.

    With `warmup_epochs` the factor first rises linearly from zero; the exponential decay still counts from step 0. All
    periods are rounded to a number of steps.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    decay = _cosine(warmup_steps, steps) if config.schedule == "cosine" else _exponential(config, steps_per_epoch)
    if warmup_steps == 0:
        return decay
    return lambda step: decay(step) * jnp.minimum(1.0, (step + 1) / warmup_steps)


def _exponential(config: OptimConfig, steps_per_epoch: float) -> optax.Schedule:
    decay_steps = max(1, round(config.decay_epochs * steps_per_epoch))
    return optax.exponential_decay(1.0, decay_steps, config.decay_rate, staircase=config.staircase)


def _cosine(begin: int, end: int) -> optax.Schedule:
    decay = optax.cosine_decay_schedule(1.0, max(1, end - begin))
    return lambda step: decay(jnp.maximum(0, step - begin))


def make_optimizer(
    config: OptimConfig, schedule: optax.ScalarOrSchedule, batch_size: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """Optimiser as a chain, by default that of section 4 of the paper.

    rmsprop: L2, clipping, TensorFlow's RMSProp, learning rate, momentum, average. Differs from `optax.rmsprop` as
    TensorFlow does: `ms <- d ms + (1 - d) g^2` starts from `rms_initial`, and `mom <- m mom + rate g / sqrt(ms + eps)`
    has epsilon inside the root and the rate inside the momentum. At the paper's epsilon of 1 this decides the result.

    sgd: L2, clipping, learning rate, momentum, average. Differs from `optax.sgd` only while the rate changes, which is
    inside the momentum as above.

    adamw: clipping, `optax.adamw` on the gradients without any L2 (its decay is decoupled), average.

    The rate is `config.learning_rate * schedule(step)`, in proportion to the batch and times `head_rate` in the head
    if so configured. It is held in the state rather than in the program, so that a step compiles once for all rates of
    a sweep.

    L2 is added to the gradients of kernels before clipping, as the released code's term of the loss.

    Args:
      config: the settings.
      schedule: function of the step that gives the factor on the learning rate.
      batch_size: images per step, which a configuration with a `reference_batch` needs.

    Raises:
      ValueError: there is a `reference_batch` and no `batch_size`.
    """
    if config.reference_batch and batch_size is None:
        raise ValueError("a configuration with a reference_batch needs a batch_size")
    rate = learning_rate(config, batch_size or 1)
    scale = optax.inject_hyperparams(optax.scale)
    decay = optax.add_decayed_weights(config.weight_decay, mask=is_kernel) if config.weight_decay else optax.identity()
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm is not None else optax.identity()
    rms = optax.scale_by_rms(
        config.rms_decay, config.rms_epsilon, initial_scale=config.rms_initial, eps_in_sqrt=config.epsilon_in_sqrt
    )
    adam = optax.scale_by_adam(config.momentum, config.adam_b2, config.adam_epsilon)
    rates = [optax.scale_by_learning_rate(schedule), scale(step_size=rate)]
    if config.head_rate != 1:
        rates.append(optax.masked(scale(step_size=float(config.head_rate)), is_head))
    momentum = optax.trace(config.momentum) if config.momentum else optax.identity()
    transforms = {
        "rmsprop": [decay, clip, rms, *rates, momentum],
        "sgd": [decay, clip, *rates, momentum],
        "adamw": [clip, adam, decay, *rates],
    }
    return optax.chain(*transforms[config.name], params_ema(config.ema_decay))


def is_head(params: Any) -> Any:
    """Mask of parameters: True in the classifier and the auxiliary head."""
    return jax.tree.map_with_path(lambda path, _: path[0].key in HEAD, params)


def is_kernel(params: Any) -> Any:
    """Mask of parameters: True at the kernels of convolutions and dense layers."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def ramped_decay(decay: float, updates: jax.Array) -> jax.Array:
    """Decay of a moving average at its n-th update, n = 1, 2, ...: `min(decay, (1 + n) / (10 + n))`.

    That of TensorFlow's ExponentialMovingAverage with `num_updates`. The average covers about the last ninth of the
    updates until `decay` takes over, at n = 89,990 for 0.9999 and 29,990 for 0.9997; of what was there before the first
    update a run of n updates keeps less than 10! / n^9.
    """
    return jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))


class ParamsEmaState(NamedTuple):
    """State of `params_ema`: the number of updates and the averaged parameters."""

    updates: jax.Array
    average: Any


def params_ema(decay: float) -> optax.GradientTransformation:
    """Averages the updated parameters and passes the updates through; use it last in a chain.

    After update n (the first is n = 1): `average <- d average + (1 - d) params` with `d` of `ramped_decay`. Differs
    from `optax.ema`, which averages the updates.
    """

    def init(params: Any) -> ParamsEmaState:
        # A copy, because a step donates parameters and optimiser state, and a buffer can be donated only once.
        return ParamsEmaState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: ParamsEmaState, params: Any = None) -> tuple[Any, ParamsEmaState]:
        n = state.updates + 1
        d = ramped_decay(decay, n)
        average = jax.tree.map(lambda a, p: a + (1 - d) * (p - a), state.average, optax.apply_updates(params, updates))
        return updates, ParamsEmaState(n, average)

    return optax.GradientTransformation(init, update)


def averaged_params(opt_state: Any) -> Any:
    """Averaged parameters held in the state of the optimiser."""
    (state,) = [s for s in opt_state if isinstance(s, ParamsEmaState)]
    return state.average


def extend_state(old: Any, new: Any) -> Any:
    """The optimiser's state `new` of more parameters, with the progress of `old`.

    That is the schedule's count, and the average of the parameters that `old` covers.
    """
    kept = (optax.ScaleByScheduleState, ParamsEmaState)

    def is_kept(node: Any) -> bool:
        return isinstance(node, kept)

    before = {type(node): node for node in jax.tree.leaves(old, is_leaf=is_kept) if is_kept(node)}

    def choose(node: Any) -> Any:
        if isinstance(node, ParamsEmaState):
            ema = before[ParamsEmaState]
            return ParamsEmaState(ema.updates, {**node.average, **ema.average})
        return before[type(node)] if is_kept(node) else node

    return jax.tree.map(choose, new, is_leaf=is_kept)
