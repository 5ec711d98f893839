"""Training: `run` checks and restores a run, `loop` trains it, with `clock`, `metrics_log` and `watchdog`."""

from inception_jax.train.run import enable_compilation_cache, fit, fit_all

__all__ = ["enable_compilation_cache", "fit", "fit_all"]
