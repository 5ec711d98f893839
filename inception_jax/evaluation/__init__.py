"""The paper's evaluation (section 4) of one network or an ensemble, on one or many crops of each image."""

from inception_jax.evaluation.evaluate import evaluate
from inception_jax.evaluation.run_networks import EvaluationOptions

__all__ = ["EvaluationOptions", "evaluate"]
