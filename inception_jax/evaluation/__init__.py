"""The paper's evaluation (section 4): one network or several, each shown one crop or many of every image."""

from inception_jax.evaluation.evaluate import evaluate
from inception_jax.evaluation.options import EvaluationOptions

__all__ = ["EvaluationOptions", "evaluate"]
