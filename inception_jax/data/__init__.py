"""Images: sources, preprocessing (`preprocess`, `colour`, `multicrop`) and batches.

`pipeline` yields the batches of training and validation, `multicrop_batches` those of the paper's evaluation.
"""

from inception_jax.data.exclude import excluded, of_unknown_classes
from inception_jax.data.multicrop import Protocol
from inception_jax.data.multicrop_batches import multicrop_batches
from inception_jax.data.pipeline import evaluation_batches, training_batches
from inception_jax.data.sources import open_source

__all__ = [
    "Protocol",
    "multicrop_batches",
    "evaluation_batches",
    "excluded",
    "of_unknown_classes",
    "open_source",
    "training_batches",
]
