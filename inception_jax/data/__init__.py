"""Images: where from (`sources`), how prepared (`preprocess`, `colour`), in what order and batches (`pipeline`)."""

from inception_jax.data.pipeline import evaluation_batches, training_batches
from inception_jax.data.sources import open_source

__all__ = ["evaluation_batches", "open_source", "training_batches"]
