"""Inception-v4 and the Inception-ResNets (arXiv 1602.07261) in JAX and Flax."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    # Before other imports: fcntl, resource and array_record do not exist on Windows.
    _REASON = "inception_jax does not run on native Windows; use WSL2, Linux or macOS."
    _script = os.path.basename(sys.argv[0]) if sys.argv else ""
    if _script.startswith("inception-jax") or sys.orig_argv[1:3] == ["-m", "inception_jax"]:
        print(f"inception-jax: {_REASON}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_REASON)

if TYPE_CHECKING:
    from inception_jax.evaluation import EvaluationOptions
    from inception_jax.evaluation.evaluate import evaluate
    from inception_jax.models import create_model, list_models
    from inception_jax.predict import Predictor
    from inception_jax.weights import export_weights, import_weights
    from inception_jax.weights.checkpoint import load_checkpoint

__all__ = [
    "EvaluationOptions",
    "Predictor",
    "create_model",
    "evaluate",
    "export_weights",
    "import_weights",
    "list_models",
    "load_checkpoint",
]

_HOMES = {
    "EvaluationOptions": "inception_jax.evaluation",
    "Predictor": "inception_jax.predict",
    "create_model": "inception_jax.models",
    "evaluate": "inception_jax.evaluation",
    "list_models": "inception_jax.models",
    "import_weights": "inception_jax.weights",
    "export_weights": "inception_jax.weights",
    "load_checkpoint": "inception_jax.weights.checkpoint",
}


def __getattr__(name: str) -> Any:
    # Imported lazily, so that --help does not wait a second for JAX.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
