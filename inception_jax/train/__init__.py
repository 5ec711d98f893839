"""Training one run: `fit` prepares it, `loop` trains it, `validate` measures its error on the way."""

from inception_jax.train.fit import check_same_experiment, enable_compilation_cache, fit, fit_all

__all__ = ["check_same_experiment", "enable_compilation_cache", "fit", "fit_all"]
