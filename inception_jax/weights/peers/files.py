"""Reading and writing of weight files as mappings of names to arrays, in the peer's own layout."""

import importlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.errors import UserError, reason

SUFFIXES = {
    "timm": (".safetensors", ".pt", ".pth"),
    "facenet": (".safetensors", ".pt", ".pth"),
    "keras": (".h5", ".keras"),
    "inception_jax": (".safetensors",),
}
"""The kinds of file in which each format is kept."""


def read(path: Path, format: str) -> dict[str, np.ndarray]:
    """The arrays of a file: timm and facenet `.safetensors`, `.pt`, `.pth`; Keras `.h5`, `.weights.h5`, `.keras`.

    Raises:
      UserError: no such file, a file of another kind or that cannot be read, or its library is not installed.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    if path.suffix not in SUFFIXES[format]:
        raise UserError(f"{path} is not a file of {format} weights; those end in {', '.join(SUFFIXES[format])}.")
    readers = {".safetensors": _read_safetensors, ".h5": _read_h5, ".keras": _read_keras}
    return readers.get(path.suffix, _read_pickle)(path)


def read_metadata(path: Path) -> dict[str, Any]:
    """The texts that a `.safetensors` file carries beside its arrays, or an `.h5` file's attributes; else {}."""
    if path.suffix == ".safetensors":
        return _read_safetensors_metadata(path)
    return _read_attributes(path) if path.suffix == ".h5" else {}


def _read_safetensors_metadata(path: Path) -> dict[str, str]:
    safetensors = _library("safetensors", path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except Exception as error:  # as in _read_safetensors
        raise _unreadable(path, error) from error


def _read_attributes(path: Path) -> dict[str, Any]:
    h5py = _library("h5py", path)
    try:
        with h5py.File(path) as file:
            return dict(file.attrs)
    except Exception as error:  # as in _read_h5
        raise _unreadable(path, error) from error


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a `.safetensors` file; UserError where its library is not installed."""
    library = _library("safetensors.numpy", path)
    path.touch()
    mode = path.stat().st_mode
    # Its core writes a transposed view's memory as it lies.
    library.save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path, dict(metadata))
    path.chmod(mode)  # it lets the owner alone read the file


def write_weights_h5(
    path: Path, arrays: Mapping[str, np.ndarray], groups: Mapping[str, str], metadata: Mapping[str, str]
) -> None:
    """Writes a `.weights.h5` file as Keras 3 does, which `load_weights` of the same network takes.

    Args:
      path: of the file; its folder exists.
      arrays: {"conv2d_8/kernel": ...}.
      groups: {"conv2d_5": "conv2d_8"}, which layer each group holds; those without arrays are left out.
      metadata: texts, as attributes of the file.
    """
    h5py = _library("h5py", path)
    with h5py.File(path, "w") as file:
        file.attrs.update(metadata)
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


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read: {reason(error)}.")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    safetensors = _library("safetensors.numpy", path)
    try:
        return safetensors.load_file(path)
    except Exception as error:  # its exception is its Rust core's and not of a public class
        raise _unreadable(path, error) from error


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    torch = _library(
        "torch",
        path,
        "; where it is, `safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')` "
        "converts it",
    )
    try:
        # weights_only: a pickle may otherwise run any code.
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.numpy() for name, tensor in state.get("state_dict", state).items()}
    except Exception as error:
        raise _unreadable(path, error) from error


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    h5py = _library("h5py", path)
    try:
        with h5py.File(path) as file:
            return _arrays(file, h5py, path)
    except UserError:
        raise
    except Exception as error:  # HDF5 has one for each of its parts: OSError, RuntimeError, KeyError, ValueError, ...
        raise _unreadable(path, error) from error


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    h5py = _library("h5py", path)
    try:
        # Out of the archive first: HDF5 jumps about, and each jump back in an archive reads it again from the start.
        with zipfile.ZipFile(path) as archive:
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights) as file:
            return _arrays(file, h5py, path)
    except UserError:
        raise
    except Exception as error:  # as in _read_h5, and those of zipfile and zlib
        raise _unreadable(path, error) from error


def _arrays(file: Any, h5py: Any, path: Path) -> dict[str, np.ndarray]:
    """The arrays of the layers (an optimizer's are left out): {"conv2d/kernel": ...}."""
    if "layers" in file:
        return _numbered_arrays(file["layers"], path)
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, node: Any) -> None:
        # "conv2d_1/conv2d_1/kernel:0": the layer first, its array last.
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
"""The variables that Keras numbers 0, 1, 2, keyed by the layer's class."""


def _numbered_arrays(layers: Any, path: Path) -> dict[str, np.ndarray]:
    """Keras 3's own layout: layers/conv2d_7/vars/0, where the group's name is a position and "name" an attribute."""
    arrays = {}
    for position, group in layers.items():
        variables = group.get("vars", {})
        if not len(variables):
            continue
        if "name" not in variables.attrs:
            raise UserError(f"{path} does not name its layers (an early Keras 3 wrote it); save it as .h5 with Keras.")
        kind = _kind(position)
        for number, node in variables.items():
            known = _VARIABLES.get(kind, ())
            array = known[int(number)] if number.isdigit() and int(number) < len(known) else number
            arrays[f"{variables.attrs['name']}/{array}"] = node[()]
    return arrays


def _kind(position: str) -> str:
    """ "conv2d" of "conv2d_7"."""
    kind, _, number = position.rpartition("_")
    return kind if number.isdigit() else position
