"""Reading and writing of weight files, as mappings of names to arrays in the peer's layout."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.errors import UserError, reason
from inception_jax.system import extras
from inception_jax.weights.peers import keras, pytorch

_PYTORCH = (".safetensors", ".safetensors.index.json", ".bin.index.json", ".pt", ".pth", ".bin", ".ckpt", ".tar")
SUFFIXES = {
    "timm": _PYTORCH,
    "facenet": _PYTORCH,
    "keras": (".h5", ".keras"),
    "inception_jax": (".safetensors",),
}
"""Suffixes of the files of each format."""

_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)")


def read(path: Path, format: str) -> dict[str, np.ndarray]:
    """Reads the arrays of a weight file with one of the format's `SUFFIXES`; of all files if it is one of several.

    Raises:
      UserError: the file does not exist, has another suffix or cannot be read, or its library is not installed.
    """
    _check_suffix(path, format)
    arrays: dict[str, np.ndarray] = {}
    for file in shards(path):
        with _reading(file):
            arrays |= _reader(file)(file)
    return arrays


def shards(path: Path) -> list[Path]:
    """The files that belong together: those of an index, "model-00001-of-00003.safetensors" and its siblings, or one.

    Raises:
      UserError: one of them is missing, or the index cannot be read.
    """
    if path.name.endswith(".index.json"):
        with _reading(path):
            found = sorted({path.parent / str(name) for name in json.loads(path.read_text())["weight_map"].values()})
    elif match := _SHARD.fullmatch(path.name):
        stem, count, suffix = match.groups()
        found = [path.with_name(f"{stem}-{i:05d}-of-{count}{suffix}") for i in range(1, int(count) + 1)]
    else:
        return [path]
    missing = [file.name for file in found if not file.is_file()]
    if missing:
        raise UserError(
            f"{path} is one of {len(found)} files; {len(missing)} of them are not beside it, the first {missing[0]}."
        )
    return found


def read_configuration(path: Path) -> dict[str, Any]:
    """The configuration in a file of Keras, as `keras.read_configuration`; {} for any other file."""
    if not path.name.endswith(SUFFIXES["keras"]):
        return {}
    with _reading(path):
        return keras.read_configuration(path)


def read_scales(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of the layers in a file of Keras that scale the images, as `keras.read_scales`."""
    with _reading(path):
        return keras.read_scales(path)


def read_class_names(path: Path, count: int) -> tuple[str, ...]:
    """Reads the names of `count` classes that a trainer has put beside the weights in PyTorch's file; () if none."""
    if _reader(path) is not _read_pytorch or not path.is_file():
        return ()
    with _reading(path):
        return pytorch.class_names(pytorch.read(path, values=False), count)


def _check_suffix(path: Path, format: str) -> None:
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    if path.name.endswith(SUFFIXES[format]):
        return
    others = [other for other, suffixes in SUFFIXES.items() if path.name.endswith(suffixes)]
    advice = f"; give --format {others[0]}" if others else ""
    raise UserError(f"{path} is not a file of {format} weights; those end in {', '.join(SUFFIXES[format])}{advice}.")


def _reader(path: Path) -> Callable[[Path], dict[str, np.ndarray]]:
    readers = {".safetensors": _read_safetensors, ".h5": keras.read, ".keras": keras.read}
    return readers.get(path.suffix, _read_pytorch)


def _read_pytorch(path: Path) -> dict[str, np.ndarray]:
    return pytorch.arrays(pytorch.read(path))


def read_metadata(path: Path) -> dict[str, Any]:
    """Reads the metadata of a `.safetensors` file, or the attributes of a `.h5` file; {} for any other file."""
    with _reading(path):
        if path.suffix == ".safetensors":
            with extras.load("safetensors", str(path)).safe_open(path, framework="numpy") as file:
                return file.metadata() or {}
        if path.suffix == ".h5":
            with extras.load("h5py", str(path)).File(path) as file:
                return dict(file.attrs)
    return {}


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a `.safetensors` file; raises UserError if its library is not installed."""
    library = extras.load("safetensors.numpy", str(path))
    path.touch()
    mode = path.stat().st_mode
    # In C order, because safetensors writes the memory of a transposed view as it is.
    library.save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path, dict(metadata))
    path.chmod(mode)  # safetensors makes the file readable by its owner only


def write_weights_h5(
    path: Path, arrays: Mapping[str, np.ndarray], groups: Mapping[str, str], metadata: Mapping[str, str]
) -> None:
    """Writes a `.weights.h5` file for Keras 3's `load_weights` of the same network.

    Args:
      path: path of the file, in an existing directory.
      arrays: arrays by layer and name, {"conv2d_8/kernel": ...}.
      groups: layers by group, {"conv2d_5": "conv2d_8"}; those without arrays are left out.
      metadata: texts, written as attributes of the file.
    """
    h5py = extras.load("h5py", str(path))
    with h5py.File(path, "w") as file:
        file.attrs.update(metadata)
        for position, layer in groups.items():
            known = keras.VARIABLES[keras.kind(position)]
            held = [f"{layer}/{array}" for array in known if f"{layer}/{array}" in arrays]
            for number, name in enumerate(held):
                variables = file.require_group(f"layers/{position}/vars")
                variables.attrs["name"] = layer
                variables.create_dataset(str(number), data=arrays[name])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of four libraries, some with exceptions of their own that are not public
        raise UserError(f"{path} cannot be read: {reason(error)}.") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    return extras.load("safetensors.numpy", str(path)).load_file(path)
