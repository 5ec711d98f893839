"""Inception-v4 and the Inception-ResNets (arXiv 1602.07261) in JAX and Flax."""

from typing import Any

__all__ = ["create_model", "list_models"]


def __getattr__(name: str) -> Any:
    # Lazily: the command line answers --help without JAX's second of start-up.
    if name in __all__:
        from inception_jax import models

        return getattr(models, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
