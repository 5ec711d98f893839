"""Reading and writing of weight files, as mappings of names to arrays in the peer's layout."""

import contextlib
import importlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.errors import UserError

SUFFIXES = {
    "timm": (".safetensors", ".pt", ".pth"),
    "facenet": (".safetensors", ".pt", ".pth"),
    "keras": (".h5", ".keras"),
    "inception_jax": (".safetensors",),
}
"""Suffixes of the files of each format."""


def read(path: Path, format: str) -> dict[str, np.ndarray]:
    """Reads the arrays of a weight file with one of the format's `SUFFIXES`.

    Raises:
      UserError: the file does not exist, has another suffix or cannot be read, or its library is not installed.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    if path.suffix not in SUFFIXES[format]:
        raise UserError(f"{path} is not a file of {format} weights; those end in {', '.join(SUFFIXES[format])}.")
    readers = {".safetensors": _read_safetensors, ".h5": _read_h5, ".keras": _read_keras}
    with _reading(path):
        return readers.get(path.suffix, _read_pickle)(path)


def read_metadata(path: Path) -> dict[str, str]:
    """Reads the metadata of a `.safetensors` file."""
    safetensors = _library("safetensors", path)
    with _reading(path), safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a `.safetensors` file; raises UserError if its library is not installed."""
    library = _library("safetensors.numpy", path)
    path.touch()
    mode = path.stat().st_mode
    # In C order, because safetensors writes the memory of a transposed view as it is.
    library.save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path, dict(metadata))
    path.chmod(mode)  # safetensors makes the file readable by its owner only


def write_weights_h5(path: Path, arrays: Mapping[str, np.ndarray], groups: Mapping[str, str]) -> None:
    """Writes a `.weights.h5` file for Keras 3's `load_weights` of the same network.

    Args:
      path: path of the file, in an existing directory.
      arrays: arrays by layer and name, {"conv2d_8/kernel": ...}.
      groups: layers by group, {"conv2d_5": "conv2d_8"}; those without arrays are left out.
    """
    h5py = _library("h5py", path)
    with h5py.File(path, "w") as file:
        for position, layer in groups.items():
            known = _VARIABLES[_kind(position)]
            held = [f"{layer}/{array}" for array in known if f"{layer}/{array}" in arrays]
            for number, name in enumerate(held):
                variables = file.require_group(f"layers/{position}/vars")
                variables.attrs["name"] = layer
                variables.create_dataset(str(number), data=arrays[name])


def _library(name: str, path: Path, otherwise: str = "") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(f"{path} needs {package}, which is not installed{otherwise}.") from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of four libraries, some with exceptions of their own that are not public
        raise UserError(f"{path} cannot be read: {error}") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    return _library("safetensors.numpy", path).load_file(path)


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    torch = _library(
        "torch",
        path,
        "; on a machine with torch, `safetensors.torch.save_file(torch.load(path, weights_only=True), "
        "'weights.safetensors')` converts it",
    )
    # weights_only: a pickle may otherwise run any code.
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in state.get("state_dict", state).items()}


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    h5py = _library("h5py", path)
    with h5py.File(path) as file:
        return _arrays(file, h5py, path)


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    h5py = _library("h5py", path)
    # Extracted first, because HDF5 seeks, and seeking back in an archive reads it again from the start.
    with zipfile.ZipFile(path) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights) as file:
        return _arrays(file, h5py, path)


def _arrays(file: Any, h5py: Any, path: Path) -> dict[str, np.ndarray]:
    """Arrays of the layers, without those of an optimizer: {"conv2d/kernel": ...}."""
    if "layers" in file:
        return _numbered_arrays(file["layers"], path)
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, node: Any) -> None:
        # In "conv2d_1/conv2d_1/kernel:0" the layer comes first, its array last.
        if isinstance(node, h5py.Dataset):
            layer, array = name.split("/")[0], name.split("/")[-1]
            arrays[f"{layer}/{array.removesuffix(':0')}"] = node[()]

    file.get("model_weights", file).visititems(visit)
    return arrays


_VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("beta", "moving_mean", "moving_variance"),
}
"""Variables that Keras numbers 0, 1, 2, keyed by the layer's class."""


def _numbered_arrays(layers: Any, path: Path) -> dict[str, np.ndarray]:
    """Arrays in Keras 3's layout, layers/conv2d_7/vars/0, where the layer's name is an attribute of its group."""
    arrays = {}
    for position, group in layers.items():
        variables = group.get("vars", {})
        if not len(variables):
            continue
        if "name" not in variables.attrs:
            raise UserError(f"{path} of an early Keras 3 has no names of layers; save it as .h5 with Keras.")
        kind = _kind(position)
        for number, node in variables.items():
            known = _VARIABLES.get(kind, ())
            array = known[int(number)] if number.isdigit() and int(number) < len(known) else number
            arrays[f"{variables.attrs['name']}/{array}"] = node[()]
    return arrays


def _kind(position: str) -> str:
    """The layer's class, "conv2d" for "conv2d_7"."""
    kind, _, number = position.rpartition("_")
    return kind if number.isdigit() else position
