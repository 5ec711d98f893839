"""The paper's optimiser as one optax chain: L2, clip, TensorFlow's RMSProp, a staircase rate, averaged parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from inception_jax.config import OptimConfig


def learning_rate_schedule(config: OptimConfig, steps_per_epoch: float) -> optax.Schedule:
    """Step -> factor on `learning_rate`: `decay_rate ** floor(epoch / decay_epochs)`, smooth without `staircase`.

    `decay_epochs` and `warmup_epochs` are rounded to whole steps. With a warm-up the rate first rises linearly from
    zero; the decay counts from step 0 all the same.
    """
    decay_steps = max(1, round(config.decay_epochs * steps_per_epoch))
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    decay = optax.exponential_decay(1.0, decay_steps, config.decay_rate, staircase=config.staircase)
    if warmup_steps == 0:
        return decay
    return lambda step: decay(step) * jnp.minimum(1.0, (step + 1) / warmup_steps)


def make_optimizer(config: OptimConfig, schedule: optax.ScalarOrSchedule) -> optax.GradientTransformationExtraArgs:
    """The optimiser of section 4 as a chain: L2, clip, TensorFlow's RMSProp, learning rate, momentum, average.

    RMSProp is TensorFlow's: `ms <- d ms + (1 - d) g^2` from `rms_initial`, `mom <- m mom + rate g / sqrt(ms + eps)`,
    epsilon inside the root and the rate inside the momentum, which at the paper's epsilon of 1 decides the result.

    The rate is `learning_rate * schedule(step)`. The first is a hyperparameter in the state rather than a constant of
    the program, so that a step is compiled once for all the rates of a sweep.

    Weight decay is added to the gradients of kernels before they are clipped, because the released code has it as L2 in
    the loss.
    """
    transforms = [
        optax.add_decayed_weights(config.weight_decay, mask=is_kernel) if config.weight_decay else optax.identity(),
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm is not None else optax.identity(),
        optax.scale_by_rms(
            config.rms_decay,
            config.rms_epsilon,
            initial_scale=config.rms_initial,
            eps_in_sqrt=config.epsilon_in_sqrt,
        ),
        optax.scale_by_learning_rate(schedule),
        optax.inject_hyperparams(optax.scale)(step_size=config.learning_rate),
        optax.trace(config.momentum) if config.momentum else optax.identity(),
        params_ema(config.ema_decay),
    ]
    return optax.chain(*transforms)


def is_kernel(params: Any) -> Any:
    """A tree of booleans: True at the kernels of convolutions and dense layers."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


class ParamsEmaState(NamedTuple):
    """State of `params_ema`: the number of updates seen and the averaged parameters."""

    updates: jax.Array
    average: Any


def params_ema(decay: float) -> optax.GradientTransformation:
    """Averages the parameters as the updates leave them; the last link of a chain, which it passes through unchanged.

    After update n (the first is n = 1): `average <- d average + (1 - d) params`, `d = min(decay, (1 + n) / (10 + n))`,
    as TensorFlow's ExponentialMovingAverage with `num_updates`. Differs from `optax.ema`, which averages the updates.
    """

    def init(params: Any) -> ParamsEmaState:
        # A copy: the step donates parameters and optimiser state, and a buffer can be donated only once.
        return ParamsEmaState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: ParamsEmaState, params: Any = None) -> tuple[Any, ParamsEmaState]:
        n = state.updates + 1
        d = jnp.minimum(decay, (1.0 + n) / (10.0 + n))
        average = jax.tree.map(lambda a, p: a + (1 - d) * (p - a), state.average, optax.apply_updates(params, updates))
        return updates, ParamsEmaState(n, average)

    return optax.GradientTransformation(init, update)


def averaged_params(opt_state: Any) -> Any:
    """The averaged parameters held in the optimiser's state."""
    (state,) = [s for s in opt_state if isinstance(s, ParamsEmaState)]
    return state.average
