"""Images: where from (`sources`), how prepared (`preprocess`, `colour`, `crops`), in what order and batches.

`pipeline` makes the batches of training and of its evaluation, `crop_batches` those of the paper's evaluation.
"""

from inception_jax.data.crop_batches import crop_batches
from inception_jax.data.crops import Protocol
from inception_jax.data.exclude import excluded
from inception_jax.data.pipeline import evaluation_batches, training_batches
from inception_jax.data.sources import open_source

__all__ = ["Protocol", "crop_batches", "evaluation_batches", "excluded", "open_source", "training_batches"]
