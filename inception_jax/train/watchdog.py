"""Watchdog of a run: stops or rolls back at non-finite numbers, and warns that a network is dying."""

import math
from collections.abc import Callable, Mapping

from inception_jax.config import TrainConfig
from inception_jax.errors import RunFailed


class NonFiniteStep(Exception):
    """A step with a non-finite loss, gradient or variance; the message names it."""


class Watchdog:
    """Checks the metrics of every step, and allows so many rollbacks."""

    def __init__(self, config: TrainConfig, *, report: Callable[[str], None]):
        """`report` is told of rollbacks and of a dying network."""
        self._config, self._report = config, report
        self._rollbacks = self._dead = 0

    def check(self, step: int, metrics: Mapping[str, float], learning_rate: float) -> None:
        """Raises NonFiniteStep for numbers that nothing can be learnt from; warns once that a network is dying."""
        loss, norm, variance = (metrics[name] for name in ("loss", "gradient_norm", "least_variance"))
        # Not `variance < 0`, which NaN is not either.
        if not (math.isfinite(loss) and math.isfinite(norm) and variance >= 0):
            raise NonFiniteStep(
                f"the loss is {loss}, the gradient's norm {norm} and the least BN variance {variance} at step {step} "
                f"(learning rate {learning_rate:g})"
            )
        self._warn_if_dying(step, metrics["zero_share"])

    def allow_rollback(self, reason: str, checkpoint: str | None) -> None:
        """Counts a rollback to `checkpoint`; RunFailed where there is none, or no more are allowed."""
        config = self._config
        if config.on_nonfinite == "stop" or checkpoint is None or self._rollbacks == config.rollbacks:
            after = f" after {self._rollbacks} rollbacks" if self._rollbacks else ""
            raise RunFailed(
                f"{reason}{after}; the last good checkpoint is {checkpoint or 'none yet'}; lower optim.learning_rate "
                "or residual_scales."
            )
        self._rollbacks += 1
        self._report(f"{reason}; back to {checkpoint} (rollback {self._rollbacks} of {config.rollbacks})")

    def _warn_if_dying(self, step: int, fraction: float) -> None:
        self._dead = self._dead + 1 if fraction >= self._config.dead_share else 0
        if self._dead == self._config.dead_steps:
            self._report(
                f"warning: since step {step - self._dead + 1} {fraction:.2%} of the activations before the pool are "
                "zero: the network is dying; lower model.residual_scales or optim.learning_rate."
            )
