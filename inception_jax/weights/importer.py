"""Import of a peer's weights and their preprocessing as a checkpoint."""

import dataclasses
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax import checkpoint
from inception_jax.data.preprocess import Preprocessing
from inception_jax.data.sources import class_name, list_names
from inception_jax.errors import UserError, reason
from inception_jax.models.network import Network
from inception_jax.system import extras
from inception_jax.system.names import printable, read_names
from inception_jax.weights import metadata
from inception_jax.weights.checkpoint import TrainedModel, save_checkpoint
from inception_jax.weights.convert import import_weights, saved_metadata
from inception_jax.weights.peers import files, keras
from inception_jax.weights.peers.names import PEERS_NAMES

_log = logging.getLogger(__name__)

# Each peer's own preprocessing: timm's configurations, keras.applications' preprocess_input (which does not crop),
# facenet's fixed_image_standardization.
_TIMM = Preprocessing(central_fraction=0.875, resize="antialiased_bicubic")
_KERAS = Preprocessing(central_fraction=1.0)
_PEER_PREPROCESSING = {
    ("timm", "inception_v3"): _TIMM,
    ("timm", "inception_v4"): _TIMM,
    ("timm", "inception_resnet_v2_slim"): dataclasses.replace(_TIMM, central_fraction=0.8975),
    ("keras", "inception_v3"): _KERAS,
    ("keras", "inception_resnet_v2_slim"): _KERAS,
    ("facenet", "inception_resnet_v1_facenet"): Preprocessing(
        image_size=160, central_fraction=1.0, mean=(0.5,) * 3, std=(128 / 255,) * 3
    ),
}


def import_checkpoint(
    source: str,
    out: str | Path,
    name: str,
    *,
    format: str,
    num_classes: int | None = None,
    copy: str | None = None,
    drop_background: bool = False,
    class_names: str | None = None,
    overwrite: bool = False,
) -> tuple[Network, Preprocessing]:
    """Imports a peer's file, or a model of a hub, as a checkpoint for every verb.

    Args:
      source: path of a file, as for `import_weights`, of a directory with one, or "hf://OWNER/MODEL" (needs
        huggingface_hub). Class names and preprocessing are read from it or from timm's config.json beside it.
      out: directory of the new checkpoint.
      name: name of our network.
      format: "timm", "keras", "facenet" or "inception_jax".
      num_classes: number of classes of a new head; None keeps the source's head, 0 drops it.
      copy: which copy of the network to take from a file with several, as for `import_weights`.
      drop_background: drop the first of TensorFlow's 1001 labels, which is no class of ImageNet.
      class_names: text file with one class name per line, in the order of the classes.
      overwrite: replace `out` if it is an imported or exported checkpoint.

    Returns:
      The network and its preprocessing.

    Raises:
      UserError: as `import_weights`; or the class names do not match the classes, or there is no background, or
        config.json is not timm's, or `out` exists.
    """
    checkpoint.check_place(Path(out).absolute(), overwrite=overwrite)
    path = _locate(source)
    model, variables = import_weights(name, path, format=format, num_classes=num_classes, copy=copy)
    own = metadata.preprocessing_in(path, saved_metadata(path))  # Files exported here hold their own.
    preprocessing = own or _peer_preprocessing(format, name, path)
    if num_classes is None and model.num_classes == 1001 and not own:
        preprocessing = dataclasses.replace(preprocessing, label_offset=1)
    if num_classes is None and not own:
        names = _peer_class_names(path, model.num_classes, preprocessing.label_offset)
        preprocessing = dataclasses.replace(preprocessing, class_names=names)
    if num_classes is not None and own:
        preprocessing = dataclasses.replace(preprocessing, label_offset=0, class_names=())  # The head is new.
    if drop_background:
        model, variables, preprocessing = without_background(TrainedModel(model, variables, preprocessing))
    if class_names is not None:
        classes = model.num_classes - preprocessing.label_offset
        preprocessing = dataclasses.replace(preprocessing, class_names=read_class_names(Path(class_names), classes))
    save_checkpoint(out, model, variables, preprocessing)
    return model, preprocessing


def without_background(trained: TrainedModel) -> TrainedModel:
    """Drops the outputs before the first class (TensorFlow's background); raises UserError if there are none."""
    model, variables, preprocessing = trained
    offset = preprocessing.label_offset
    if not offset:
        raise UserError(f"there is no background to drop: the head has {model.num_classes} classes, not 1001.")
    params = dict(variables["params"])
    for head in {"classifier", "aux_head"} & set(params):
        full = params[head]["classifier"] if head == "aux_head" else params[head]
        cut = {leaf: np.array(array[..., offset:]) for leaf, array in full.items()}
        params[head] = {**params[head], "classifier": cut} if head == "aux_head" else cut
    model = model.clone(num_classes=model.num_classes - offset)
    return TrainedModel(model, {**variables, "params": params}, dataclasses.replace(preprocessing, label_offset=0))


_FILES_OF_A_MODEL = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of the weights in a directory that a hub's client has downloaded."""


def _locate(source: str) -> Path:
    """Path of the weights."""
    path = _download(source.removeprefix("hf://")) if source.startswith("hf://") else Path(source)
    if not path.is_dir():
        return path
    found = [path / name for name in _FILES_OF_A_MODEL if (path / name).is_file()]
    if not found:
        raise UserError(f"{path} is a directory without {' or '.join(_FILES_OF_A_MODEL)}; give a file.")
    return found[0]


def _download(repository: str) -> Path:
    huggingface_hub = extras.load(
        "huggingface_hub", f"hf://{repository} (or download model.safetensors and config.json and give the path)"
    )
    try:
        huggingface_hub.hf_hub_download(repository, "config.json")
        return Path(huggingface_hub.hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # of several libraries: no network, no such model, no such file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"hf://{repository} could not be downloaded: {reason}") from error


def _peer_preprocessing(format: str, name: str, path: Path) -> Preprocessing:
    """Preprocessing of the peer's weights, overridden by what the file or timm's configuration beside it says."""
    preprocessing = _PEER_PREPROCESSING[format, PEERS_NAMES.get(name, name)]
    if format == "keras":
        return dataclasses.replace(preprocessing, **_keras_preprocessing(path))
    return dataclasses.replace(preprocessing, **_timm_preprocessing(path))


def _timm_configuration(path: Path) -> tuple[Path, dict[str, Any]]:
    """The file of timm's configuration and what it says; {} if there is none."""
    file = path.parent / "config.json"
    if path.name.endswith(files.SUFFIXES["keras"]) or not file.is_file():
        return file, {}
    try:
        configuration = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is not a model's configuration: {reason(error)}; correct or remove it.") from error
    if not isinstance(configuration, dict):
        raise UserError(f"{file} is not a model's configuration but a {type(configuration).__name__}; remove it.")
    return file, configuration


def _timm_preprocessing(path: Path) -> dict[str, Any]:
    file, configuration = _timm_configuration(path)
    given = configuration.get("pretrained_cfg", configuration)  # Early files have no such part.
    given = {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else {}
    values: dict[str, Any] = {}
    try:
        if "input_size" in given:
            values["image_size"] = int(given["input_size"][-1])
        if "crop_pct" in given:
            values["central_fraction"] = float(given["crop_pct"])
        for name in ("mean", "std"):
            if name in given:
                red, green, blue = given[name]
                values[name] = float(red), float(green), float(blue)
        Preprocessing.from_dict(values)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise UserError(f"{file} has a value that is not timm's: {reason(error)}; correct or remove it.") from error
    interpolation = given.get("interpolation", "bicubic")
    if interpolation in ("bilinear", "bicubic"):
        values["resize"] = "antialiased_" + interpolation  # timm resizes with Pillow
    else:
        _log.warning("%s: the interpolation %s is not known here; bicubic is used.", file, interpolation)
    return values


def _keras_preprocessing(path: Path) -> dict[str, Any]:
    """Size of the images, and the scale that layers of the model give them."""
    layers = list(keras.layers_of(files.read_configuration(path)))
    values: dict[str, Any] = {}
    for kind, layer in layers:
        shape = layer.get("batch_shape", layer.get("batch_input_shape"))
        if kind == "InputLayer" and isinstance(shape, list) and len(shape) == 4 and isinstance(shape[1], int):
            values["image_size"] = shape[1]  # The last is the trunk's own: inner models come after outer ones.
    scaling = [(kind, layer) for kind, layer in layers if kind in ("Rescaling", "Normalization")]
    return values | (_keras_scaling(path, scaling) if scaling else {})


def _keras_scaling(path: Path, layers: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Mean and deviation that the layers Rescaling and Normalization, one after another, give the images."""
    factor, offset = np.ones(3), np.zeros(3)
    try:
        for kind, layer in layers:
            if kind == "Rescaling":
                scale, shift = (np.asarray(layer[key], float) for key in ("scale", "offset"))
            else:
                given = layer.get("mean"), layer.get("variance")
                if None in given:
                    given = files.read_scales(path)[layer["name"]]
                mean, variance = (np.asarray(value, float).reshape(-1) for value in given)
                scale = 1 / np.maximum(np.sqrt(variance), 1e-7)  # As Keras bounds it.
                if layer.get("invert"):
                    raise ValueError("it is inverted")
                shift = -mean * scale
            factor, offset = factor * scale, offset * scale + shift
        std = np.round(1 / (255 * np.broadcast_to(factor, 3)), 12)
        if not (np.isfinite(std).all() and (std > 0).all() and np.isfinite(offset).all()):
            raise ValueError("it is no scale above 0")
        mean = -np.broadcast_to(offset, 3) * std
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} scales its images by {list_names('layer', [kind for kind, _ in layers])}, whose values cannot be "
            f"taken over ({reason(error)}); save the model without them, trained on images in [-1, 1]."
        ) from error
    return {"mean": tuple(mean.tolist()), "std": tuple(std.tolist())}


def _peer_class_names(path: Path, outputs: int, offset: int) -> tuple[str, ...]:
    """Names of the classes from timm's configuration or from what a trainer has put beside the weights; () if none."""
    file, configuration = _timm_configuration(path)
    given = configuration.get("label_names")
    if isinstance(given, dict):  # From number to name; timm leaves out unused numbers.
        beyond = [i for i in given if not re.fullmatch("[0-9]{1,18}", i) or int(i) >= outputs]
        if beyond:
            raise UserError(
                f"{file} has {list_names('label_name', beyond)}, the network the outputs 0 to {outputs - 1}; correct "
                "or remove the names."
            )
        given = [given.get(str(i), f"class {i}") for i in range(outputs)]
    if given is None:
        return files.read_class_names(path, outputs)[offset:]
    if not isinstance(given, list) or len(given) not in (outputs, outputs - offset):
        count = len(given) if isinstance(given, list) else "no list of"
        raise UserError(f"{file} has {count} label_names, the network {outputs} outputs; correct or remove the names.")
    return tuple(class_name(str(name)) for name in given[len(given) - outputs + offset :])


def read_class_names(path: Path, classes: int) -> tuple[str, ...]:
    """Reads a text file with one class name per line; raises UserError unless there are `classes` names."""
    names = tuple(map(class_name, read_names(path)))
    if len(names) != classes:
        raise UserError(f"{printable(str(path))} has {len(names)} names, but the network has {classes} classes.")
    return names
