"""Reading of Keras' files: arrays by the names of their layers, and what the model's configuration says.

An array is named LAYER/ARRAY, "conv2d_1/kernel", or MODEL/LAYER/ARRAY in a model that is a layer of another.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.errors import UserError
from inception_jax.system import extras

VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("beta", "moving_mean", "moving_variance"),
    "normalization": ("mean", "variance", "count"),
}
"""Variables that Keras numbers 0, 1, 2, keyed by the layer's class."""

_SCALED = ("gamma", *VARIABLES["batch_normalization"])
# Groups beside those of the layers, and states of layers, that have no part in inference.
_TRAINING = ("optimizer", "optimizer_weights", "compile_metrics", "metrics", "seed_generator")


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of the layers from a `.h5`, `.weights.h5` or `.keras` file.

    Those of an optimizer are left out, and those that scale the images, for `read_scales`.
    """
    arrays = _read_all(path)
    return {name: array for name, array in arrays.items() if name.rpartition("/")[2] not in VARIABLES["normalization"]}


def read_scales(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads mean and variance of the layers Normalization that learnt them, by the names of these layers."""
    arrays = _read_all(path)
    layers = {name.removesuffix("/mean") for name in arrays if name.endswith("/mean")}
    return {
        layer.rpartition("/")[2]: (arrays[f"{layer}/mean"], arrays[f"{layer}/variance"])
        for layer in layers
        if f"{layer}/variance" in arrays
    }


def _read_all(path: Path) -> dict[str, np.ndarray]:
    with _open(path) as file:
        if any(name == "vars" or "/vars" in name for name in _groups(file)):
            return _numbered_arrays(file, path)
        return _named_arrays(file)


def read_configuration(path: Path) -> dict[str, Any]:
    """The model's configuration, as `model.get_config()`; {} for a file of weights alone."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            text = archive.read("config.json")
    else:
        with _open(path) as file:
            text = file.attrs.get("model_config", "{}")
    configuration = json.loads(text)
    return configuration if isinstance(configuration, dict) else {}


def layers_of(configuration: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields class and configuration of every layer and model in a configuration, outer ones first."""
    if isinstance(configuration, dict):
        kind, values = configuration.get("class_name"), configuration.get("config")
        if isinstance(kind, str) and isinstance(values, dict):
            yield kind, values
            yield from layers_of(values.get("layers"))
            return
        for value in configuration.values():
            yield from layers_of(value)
    elif isinstance(configuration, list):
        for value in configuration:
            yield from layers_of(value)


def kind(position: str) -> str:
    """The class in an automatic name, "conv2d" in "conv2d_7"."""
    name, _, number = position.rpartition("_")
    return name if number.isdigit() else position


def _open(path: Path) -> Any:
    h5py = extras.load("h5py", str(path))
    if path.suffix != ".keras":
        return h5py.File(path)
    # Extracted first, because HDF5 seeks, and seeking back in an archive reads it again from the start.
    with zipfile.ZipFile(path) as archive:
        return h5py.File(io.BytesIO(archive.read("model.weights.h5")))


def _groups(file: Any) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return names


def _named_arrays(file: Any) -> dict[str, np.ndarray]:
    """Arrays in the layout of `.h5`: "conv2d_1/conv2d_1/kernel:0", or "inception_v3/conv2d_1/kernel:0" if nested."""
    arrays: dict[str, np.ndarray] = {}
    layers = file.get("model_weights", file)

    def visit(name: str, node: Any) -> None:
        if not hasattr(node, "shape") or any(part in _TRAINING for part in name.split("/")):
            return
        *_, layer, array = ("", *name.split("/"))
        array = array.removesuffix(":0")
        if array == "seed_generator_state":
            return
        outer = name.split("/")[0]
        arrays[f"{layer}/{array}" if outer in (layer, name) else f"{outer}/{layer}/{array}"] = node[()]

    layers.visititems(visit)
    return arrays


def _numbered_arrays(file: Any, path: Path) -> dict[str, np.ndarray]:
    """Arrays in Keras 3's layout, layers/conv2d_7/vars/0, where the layer's name is an attribute of its group."""
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, node: Any) -> None:
        *place, last = name.split("/")
        if last != "vars" or not len(node) or any(part in _TRAINING for part in place):
            return
        if "name" not in node.attrs:
            raise UserError(f"{path} of an early Keras 3 has no names of layers; save it as .h5 with Keras.")
        models = [part for part in place[:-1] if part != "layers"]
        layer = "/".join([*models, str(node.attrs["name"])])
        known = _variables(kind(place[-1]) if place else "", node)
        for number, array in node.items():
            named = known[int(number)] if number.isdigit() and int(number) < len(known) else number
            arrays[f"{layer}/{named}"] = array[()]

    file.visititems(visit)
    return arrays


def _variables(position: str, node: Any) -> tuple[str, ...]:
    """Names of a layer's numbered variables; attributes of a subclassed model may be called anything."""
    if position == "batch_normalization" and len(node) == 4:
        return _SCALED
    if position in VARIABLES:
        return VARIABLES[position]
    axes = [len(array.shape) for _, array in sorted(node.items())]
    return VARIABLES["dense"] if axes in ([2, 1], [4, 1], [2], [4]) else ()
