"""Images: their sources, their preprocessing (`preprocess`, `colour`, `multicrop`), their order and batches.

`pipeline` makes the batches of training and of its evaluation, `multicrop_batches` those of the paper's evaluation.
"""

from inception_jax.data.exclude import excluded
from inception_jax.data.multicrop import Protocol
from inception_jax.data.multicrop_batches import multicrop_batches
from inception_jax.data.pipeline import evaluation_batches, training_batches
from inception_jax.data.sources import open_source

__all__ = ["Protocol", "multicrop_batches", "evaluation_batches", "excluded", "open_source", "training_batches"]
