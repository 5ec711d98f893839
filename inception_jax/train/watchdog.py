"""Watchdog of a run: stops it or rolls it back at non-finite metrics, and warns of a dying network."""

import math
from collections.abc import Callable, Mapping

from inception_jax.config import TrainConfig
from inception_jax.errors import RunFailed


class NonFiniteStep(Exception):
    """A step with a non-finite loss, gradient or variance; the message names it."""


class Watchdog:
    """Checks the metrics of every step, and limits the number of rollbacks."""

    def __init__(self, config: TrainConfig, *, report: Callable[[str], None]):
        """Calls `report` with a line for each rollback and for a dying network."""
        self._config, self._report = config, report
        self._rollbacks = self._dead = 0

    def check(self, step: int, metrics: Mapping[str, float], learning_rate: float) -> None:
        """Raises NonFiniteStep for non-finite metrics; warns once that the network is dying."""
        loss, norm, variance = (metrics[name] for name in ("loss", "gradient_norm", "least_variance"))
        # `not variance < 0` would accept NaN.
        if not (math.isfinite(loss) and math.isfinite(norm) and variance >= 0):
            raise NonFiniteStep(
                f"the loss is {loss}, the gradient norm {norm} and the minimum BN variance {variance} at step {step} "
                f"(learning rate {learning_rate:g})"
            )
        self._warn_if_dying(step, metrics["zero_share"])

    def allow_rollback(self, reason: str, checkpoint: str | None) -> None:
        """Counts a rollback to `checkpoint`; raises RunFailed if there is none or no more are allowed."""
        config = self._config
        if config.on_nonfinite == "stop" or checkpoint is None or self._rollbacks == config.rollbacks:
            after = f" after {self._rollbacks} rollbacks" if self._rollbacks else ""
            saved = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint has been saved yet"
            raise RunFailed(f"{reason}{after}; {saved}; lower optim.learning_rate or model.residual_scales.")
        self._rollbacks += 1
        self._report(f"{reason}; rolling back to {checkpoint} (rollback {self._rollbacks} of {config.rollbacks})")

    def _warn_if_dying(self, step: int, fraction: float) -> None:
        self._dead = self._dead + 1 if fraction >= self._config.dead_share else 0
        if self._dead == self._config.dead_steps:
            self._report(
                f"warning: since step {step - self._dead + 1} {fraction:.2%} of the activations before the pool are "
                "zero: the network is dying; lower model.residual_scales or optim.learning_rate."
            )
