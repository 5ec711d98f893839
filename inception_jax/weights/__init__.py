"""Trained weights: checkpoints for inference, and files of timm, Keras and facenet."""

from inception_jax.weights.convert import (
    export_weights,
    import_weights,
    pytorch_format,
    save_weights,
    saved_metadata,
)

__all__ = ["export_weights", "import_weights", "pytorch_format", "save_weights", "saved_metadata"]
