"""Optional packages, and the extra of this package that installs each in a version that fits."""

import importlib
from typing import Any

from inception_jax.errors import UserError

EXTRAS = {
    "flatbuffers": "weights",
    "gcsfs": "gcs",
    "h5py": "weights",
    "huggingface_hub": "hub",
    "jax2onnx": "onnx",
    "onnxruntime": "onnx",
    "safetensors": "weights",
}
"""Extras by the name that a package is imported by."""


def load(module: str, what: str) -> Any:
    """Imports a module of an optional package.

    Args:
      module: name of the module, "safetensors.numpy".
      what: what needs it, for the message.

    Raises:
      UserError: it is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(f"{what} needs {package}, which is not installed: {command(package)}") from error


def command(package: str) -> str:
    """The command that installs an optional package.

    By the extra and never by the package's own name: the newest jax2onnx, for one, would replace Orbax by an older one.
    """
    return f"pip install 'inception_jax[{EXTRAS[package]}]'"
