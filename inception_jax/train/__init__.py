"""Training: `run` checks and restores a run, `loop` trains it, with `clock`, `metrics_log` and `watchdog`."""

from inception_jax.train.run import check_same_experiment, enable_compilation_cache, fit, fit_all

__all__ = ["check_same_experiment", "enable_compilation_cache", "fit", "fit_all"]
