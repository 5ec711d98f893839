"""Import of a peer's file of weights as a checkpoint: the weights, and their preprocessing."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax import checkpoint
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import UserError
from inception_jax.models.network import Network
from inception_jax.weights import metadata
from inception_jax.weights.checkpoint import TrainedModel, save_checkpoint
from inception_jax.weights.convert import import_weights, saved_metadata
from inception_jax.weights.peers.names import PEERS_NAMES

# What each peer evaluated its weights with: timm's own configurations, keras.applications' preprocess_input (which
# crops nothing), facenet's fixed_image_standardization.
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
    overwrite: bool = False,
) -> tuple[Network, Preprocessing]:
    """Reads a peer's file, or a model on a hub, and writes a checkpoint that every verb takes.

    Args:
      source: a file as `import_weights` reads it, or "hf://OWNER/MODEL" (huggingface_hub).
      out: the checkpoint's directory.
      name: of the network.
      format: "timm", "keras" or "facenet".
      num_classes: None is the source's; another number makes a new head, 0 drops it.
      drop_background: leave out the first of TensorFlow's 1001 labels, which is no class of ImageNet.
      class_names: a text file with a name a line, in the order of the classes.
      overwrite: replace `out` if it is such a checkpoint.

    Raises:
      UserError: what `import_weights` raises; names that do not match the classes; no background to drop; `out` exists.
    """
    checkpoint.check_place(Path(out).absolute(), overwrite=overwrite)
    path, configuration = _locate(source)
    model, variables = import_weights(name, path, format=format, num_classes=num_classes)
    own = metadata.preprocessing_in(path, saved_metadata(path))  # A file that was exported here says itself how.
    preprocessing = own or _peer_preprocessing(format, name, configuration)
    if num_classes is None and model.num_classes == 1001 and not own:
        preprocessing = dataclasses.replace(preprocessing, label_offset=1)
    if num_classes is not None and own:
        preprocessing = dataclasses.replace(preprocessing, label_offset=0, class_names=())  # The head is new.
    if drop_background:
        model, variables, preprocessing = without_background(TrainedModel(model, variables, preprocessing))
    if class_names is not None:
        preprocessing = dataclasses.replace(
            preprocessing, class_names=_read_class_names(class_names, model, preprocessing)
        )
    save_checkpoint(out, model, variables, preprocessing)
    return model, preprocessing


def without_background(trained: TrainedModel) -> TrainedModel:
    """The network without the outputs before its first class (TensorFlow's background); UserError if there are none."""
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
    """The file of weights, and timm's configuration beside it if there is one."""
    path = _download(source.removeprefix("hf://")) if source.startswith("hf://") else Path(source)
    config_path = path.parent / "config.json"
    if path.suffix != ".safetensors" or not config_path.is_file():
        return path, {}
    try:
        return path, json.loads(config_path.read_text()).get("pretrained_cfg", {})
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config_path} is not a model's configuration: {error}; mend it or move it away.") from error


def _download(repository: str) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"hf://{repository} needs huggingface_hub, which is not installed; install it (pip install "
            f"'inception_jax[hub]') or download model.safetensors and config.json and give the path."
        ) from error
    try:
        huggingface_hub.hf_hub_download(repository, "config.json")
        return Path(huggingface_hub.hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # of several libraries: no network, no such model, no such file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"hf://{repository} could not be downloaded: {reason}") from error


def _peer_preprocessing(format: str, name: str, configuration: dict[str, Any]) -> Preprocessing:
    """The usual preprocessing of the peer's weights, overridden by timm's configuration where there is one."""
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


def _read_class_names(path: str, model: Network, preprocessing: Preprocessing) -> tuple[str, ...]:
    try:
        names = tuple(Path(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as class names: {error}") from error
    classes = model.num_classes - preprocessing.label_offset
    if len(names) != classes:
        raise UserError(f"{path} has {len(names)} lines, but the network has {classes} classes.")
    return names
