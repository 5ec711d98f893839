"""Import of a peer's weights and their preprocessing as a checkpoint."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.data.preprocess import Preprocessing
from inception_jax.data.sources import class_name
from inception_jax.errors import UserError
from inception_jax.models.network import Network
from inception_jax.system.names import printable, read_names
from inception_jax.weights.checkpoint import TrainedModel, save_checkpoint
from inception_jax.weights.convert import import_weights, saved_metadata
from inception_jax.weights.peers.names import PEERS_NAMES

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
    drop_background: bool = False,
    class_names: str | None = None,
) -> tuple[Network, Preprocessing]:
    """Imports a peer's file, or a model of a hub, as a checkpoint for every verb.

    Args:
      source: path of a file, as for `import_weights`, or "hf://OWNER/MODEL" (needs huggingface_hub).
      out: directory of the new checkpoint.
      name: name of our network.
      format: "timm", "keras", "facenet" or "inception_jax".
      num_classes: number of classes of a new head; None keeps the source's head, 0 drops it.
      drop_background: drop the first of TensorFlow's 1001 labels, which is no class of ImageNet.
      class_names: text file with one class name per line, in the order of the classes.

    Returns:
      The network and its preprocessing.

    Raises:
      UserError: as `import_weights`; or the class names do not match the classes, or there is no background.
    """
    path, configuration = _locate(source)
    model, variables = import_weights(name, path, format=format, num_classes=num_classes)
    own = saved_metadata(path).get("preprocessing")  # Files exported here hold their own.
    preprocessing = Preprocessing.from_dict(own) if own else _peer_preprocessing(format, name, configuration)
    if num_classes is None and model.num_classes == 1001 and not own:
        preprocessing = dataclasses.replace(preprocessing, label_offset=1)
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


def _locate(source: str) -> tuple[Path, dict[str, Any]]:
    """Path of the weights, and timm's configuration beside them, if any."""
    path = _download(source.removeprefix("hf://")) if source.startswith("hf://") else Path(source)
    config_path = path.parent / "config.json"
    if path.suffix != ".safetensors" or not config_path.is_file():
        return path, {}
    try:
        return path, json.loads(config_path.read_text()).get("pretrained_cfg", {})
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config_path} is not a model's configuration: {error}; correct or remove it.") from error


def _download(repository: str) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"hf://{repository} needs huggingface_hub, which is not installed: pip install 'inception_jax[hub]', or "
            f"download model.safetensors and config.json and give the path."
        ) from error
    try:
        huggingface_hub.hf_hub_download(repository, "config.json")
        return Path(huggingface_hub.hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # of several libraries: no network, no such model, no such file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"hf://{repository} could not be downloaded: {reason}") from error


def _peer_preprocessing(format: str, name: str, configuration: dict[str, Any]) -> Preprocessing:
    """Preprocessing of the peer's weights, overridden by timm's configuration, if any."""
    preprocessing = _PEER_PREPROCESSING[format, PEERS_NAMES.get(name, name)]
    values: dict[str, Any] = {}
    if "input_size" in configuration:
        values["image_size"] = int(configuration["input_size"][-1])
    if "crop_pct" in configuration:
        values["central_fraction"] = float(configuration["crop_pct"])
    if configuration.get("interpolation") in ("bilinear", "bicubic"):
        values["resize"] = "antialiased_" + configuration["interpolation"]  # timm resizes with Pillow
    for name in ("mean", "std"):
        if name in configuration:
            values[name] = tuple(map(float, configuration[name]))
    return dataclasses.replace(preprocessing, **values)


def read_class_names(path: Path, classes: int) -> tuple[str, ...]:
    """Reads a text file with one class name per line; raises UserError unless there are `classes` names."""
    names = tuple(map(class_name, read_names(path)))
    if len(names) != classes:
        raise UserError(f"{printable(str(path))} has {len(names)} names, but the network has {classes} classes.")
    return names
