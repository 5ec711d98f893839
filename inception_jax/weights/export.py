"""Export of trained networks: each format is written, read again and compared before it is put in place."""

import contextlib
import dataclasses
import functools
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from inception_jax import checkpoint
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import RunFailed, UserError
from inception_jax.models import describe
from inception_jax.models.network import Network
from inception_jax.models.ops import PORTABLE
from inception_jax.system import extras
from inception_jax.system.atomic import put_in_place, refuse_existing
from inception_jax.system.file_format import with_format
from inception_jax.weights import metadata
from inception_jax.weights.checkpoint import TrainedModel, load_checkpoint, save_checkpoint
from inception_jax.weights.convert import import_weights, pytorch_format, save_weights

PLATFORMS, OPSET = ("cpu", "cuda", "tpu"), 21  # of StableHLO and of ONNX files


Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 images [N, S, S, 3] -> logits [N, num_classes]."""


@dataclasses.dataclass(frozen=True)
class ExportFormat:
    """An export format."""

    suffix: str
    """Required suffix of the file's name; "" is a directory."""
    bound: float
    """Maximum difference of the logits, relative to the largest logit or to 1 if that is less."""
    write: Callable[..., None]
    """Writes a file: (path, trained), and `with_preprocessing` where it takes uint8 images."""
    read: Callable[..., Predict]
    """Reads it again, with the same arguments."""
    takes_uint8: bool = False
    """Whether it can hold the preprocessing of uint8 images."""
    beside: str = ""
    """Suffix, after the file's own, of a second file with the metadata that the format cannot hold; "" is none."""


def export_checkpoint(
    trained: TrainedModel,
    out: str | os.PathLike,
    *,
    format: str,
    with_preprocessing: bool = False,
    overwrite: bool = False,
) -> float:
    """Exports a network, reads the file back and compares it; returns the maximum absolute difference of the logits.

    The logits (or features, or embedding) of two random images of the network's input size are compared, in float32,
    on the CPU if JAX has it. `FORMATS` states the purpose of each format and how much its logits may differ.

    Args:
      trained: the network, its variables ("params" and "batch_stats" are used) and its preprocessing, which every
        format keeps with the names of the classes. `orbax` and `safetensors` keep the auxiliary head, which has no part
        in inference, as far as the format has it.
      out: the file, whose name ends in the format's suffix; with `orbax` a directory. Beside a `.stablehlo` file there
        is a `.stablehlo.json`.
      format: one of `FORMATS`.
      with_preprocessing: the function takes uint8 images [N, S, S, 3], S its `image_size`, instead of
        float32 ones; stablehlo and onnx.
      overwrite: replace `out`, a directory only if it is an exported checkpoint, once the new one has been compared.

    Raises:
      UserError: the format has no such network, or `out` exists or is not a name for it, or a library is not installed.
      RunFailed: the file does not give the network's logits within the bound. It is removed again.
    """
    out = Path(out).absolute()
    exporter = _find_format(format, out, with_preprocessing, overwrite)
    options = {"with_preprocessing": True} if with_preprocessing else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        written = Path(temporary) / out.name
        exporter.write(written, trained, **options)
        difference, largest = _compare(exporter.read(written, trained, **options), trained)
        # Written so that NaN fails too.
        if not difference <= exporter.bound * max(1.0, largest):
            raise RunFailed(
                f"the {format} file gives logits that differ by {difference:.3g} from the network's, whose largest is "
                f"{largest:.3g}; the maximum relative difference is {exporter.bound:g}. {out} was not written."
            )
        if out.is_dir():
            out.rename(Path(temporary) / "old")
        beside = _beside(out, exporter)
        if beside:
            beside.unlink(missing_ok=True)  # So that no program has the metadata of another, whatever happens.
        put_in_place(written, out)
        if beside:
            put_in_place(Path(temporary) / beside.name, beside)
    return difference


def _beside(out: Path, exporter: ExportFormat) -> Path | None:
    """The second file of a format that needs one."""
    return out.with_name(out.name + exporter.beside) if exporter.beside else None


def _find_format(name: str, out: Path, with_preprocessing: bool, overwrite: bool) -> ExportFormat:
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}; it must be one of {', '.join(FORMATS)}.")
    exporter = FORMATS[name]
    if with_preprocessing and not exporter.takes_uint8:
        capable = [other for other, format in FORMATS.items() if format.takes_uint8]
        raise UserError(f"{name} holds weights, not a function of uint8 images; use {' or '.join(capable)}.")
    if not out.name.endswith(exporter.suffix) or out.name == exporter.suffix:
        raise UserError(f"{out} must end in {exporter.suffix} for the format {name}.")
    if exporter.suffix and out.is_dir():
        raise UserError(f"{out} is a directory; {name} is one file.")
    if not exporter.suffix:
        checkpoint.check_place(out, overwrite=overwrite)
    for path in (out, _beside(out, exporter)):
        if path:
            refuse_existing(path, overwrite=overwrite)
    return exporter


# Verification


def _compare(predict: Predict, trained: TrainedModel) -> tuple[float, float]:
    """The largest difference from the network's own logits, and the largest of these."""
    images = np.random.default_rng(0).integers(0, 256, (2, *_image_shape(trained)), np.uint8)
    with jax.default_device(_cpu()):
        expected = _predict_with(trained, trained)(images)
        pairs = [(predict(images), expected), (predict(images[:1]), expected[:1])]
    if any(got.shape != expected_logits.shape for got, expected_logits in pairs):
        return float("inf"), float(np.abs(expected).max())
    return float(max(np.abs(got - expected_logits).max() for got, expected_logits in pairs)), float(
        np.abs(expected).max()
    )


def _image_shape(trained: TrainedModel) -> tuple[int, int, int]:
    """[H, W, C]."""
    return trained.preprocessing.image_size, trained.preprocessing.image_size, 3


def _cpu() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None  # JAX_PLATFORMS leaves the CPU out


def _predict_with(read: TrainedModel, trained: TrainedModel) -> Predict:
    # Settings that inference does not use may differ, since another library's file does not keep them; so may the
    # padding of average pools, of which `export_weights` warns.
    model = _for_inference(read.model).clone(count_include_pad=trained.model.count_include_pad)
    variables = _without_aux_head(read.variables)

    def predict(images: np.ndarray) -> np.ndarray:
        # Two images, also for one: another shape would compile again.
        normalised = _normalise(np.concatenate([images, images])[:2], read.preprocessing)
        return np.asarray(_logits(model, variables, normalised))[: len(images)]

    return predict


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Network, variables: Any, images: jax.Array) -> jax.Array:
    return jnp.asarray(model.apply(variables, images))


def _for_inference(model: Network) -> Network:
    return model.clone(
        dtype=None, aux_head=False, bn_axis_name=None, dropout_rate=0.0, bn_momentum=0.0, backend=PORTABLE
    )


def _without_aux_head(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables in float32 without the auxiliary head, "params" and "batch_stats" only."""
    kept = {
        name: {layer: leaves for layer, leaves in variables[name].items() if layer != "aux_head"}
        for name in ("params", "batch_stats")
    }
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), kept)


def _normalise(images: Any, preprocessing: Preprocessing) -> Any:
    """uint8 images as the network takes them, in NumPy's or JAX's arrays."""
    mean, std = (np.asarray(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    return (images.astype(np.float32) / np.float32(255) - mean) / std


# Weights


def _write_orbax(path: Path, trained: TrainedModel) -> None:
    save_checkpoint(path, *trained)


def _read_orbax(path: Path, trained: TrainedModel) -> Predict:
    return _predict_with(load_checkpoint(path), trained)


def _write_weights(path: Path, trained: TrainedModel, format: str | None = None) -> None:
    model, variables, preprocessing = trained
    format = format or pytorch_format(model)
    save_weights(path, model, variables, format=format, preprocessing=preprocessing.to_dict())


def _read_weights(path: Path, trained: TrainedModel, format: str | None = None) -> Predict:
    name = describe(trained.model)["name"]
    model, variables = import_weights(name, path, format=format or pytorch_format(trained.model))
    return _predict_with(TrainedModel(model, variables, trained.preprocessing), trained)


# Functions


def _function(trained: TrainedModel, with_preprocessing: bool) -> Callable[[jax.Array], jax.Array]:
    """Images to logits, the weights inside."""
    model, variables = _for_inference(trained.model), _without_aux_head(trained.variables)

    def predict(images: jax.Array) -> jax.Array:
        if with_preprocessing:
            images = _normalise(images, trained.preprocessing)
        return jnp.asarray(model.apply(variables, images))

    return predict


def _images(trained: TrainedModel, with_preprocessing: bool) -> jax.ShapeDtypeStruct:
    shape = jax.export.symbolic_shape(", ".join(["b", *map(str, _image_shape(trained))]))
    return jax.ShapeDtypeStruct(shape, jnp.uint8 if with_preprocessing else jnp.float32)


def _describe_function(trained: TrainedModel, with_preprocessing: bool) -> dict[str, Any]:
    """Description of an exported function for its callers, as JSON values."""
    images = jax.ShapeDtypeStruct((1, *_image_shape(trained)), jnp.uint8 if with_preprocessing else jnp.float32)
    logits = jax.eval_shape(_function(trained, with_preprocessing), images)
    return {
        "model": describe(trained.model),
        "preprocessing": trained.preprocessing.to_dict(),
        "input": {
            "name": "images",
            "dtype": images.dtype.name,
            "shape": ["batch", *images.shape[1:]],
            "values": "0 to 255, RGB" if with_preprocessing else "(pixels / 255 - mean) / std, RGB",
        },
        "output": {"name": "logits", "dtype": logits.dtype.name, "shape": ["batch", *logits.shape[1:]]},
    }


def _inputs(images: np.ndarray, trained: TrainedModel, with_preprocessing: bool) -> np.ndarray:
    return images if with_preprocessing else _normalise(images, trained.preprocessing)


def _write_stablehlo(path: Path, trained: TrainedModel, with_preprocessing: bool = False) -> None:
    extras.load("flatbuffers", path.name)  # jax.export needs it and JAX does not require it.
    function, images = _function(trained, with_preprocessing), _images(trained, with_preprocessing)
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(images)
    path.write_bytes(exported.serialize())
    described = with_format(_describe_function(trained, with_preprocessing))
    path.with_name(path.name + FORMATS["stablehlo"].beside).write_text(json.dumps(described, indent=2) + "\n")


def _read_stablehlo(path: Path, trained: TrainedModel, with_preprocessing: bool = False) -> Predict:
    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: np.asarray(call(_inputs(images, trained, with_preprocessing)))


def _write_onnx(path: Path, trained: TrainedModel, with_preprocessing: bool = False) -> None:
    converter = extras.load("jax2onnx", path.name)
    # jax2onnx prints its progress, and warns of every plugin that it cannot load with this JAX.
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        onnx = converter.to_onnx(
            _function(trained, with_preprocessing),
            [_images(trained, with_preprocessing)],
            model_name=describe(trained.model)["name"],
            opset=OPSET,
            input_names=["images"],
            output_names=["logits"],
        )
    # Shapes in between, which a runtime infers, are wrong where jax2onnx 0.13 moved a transposition.
    del onnx.graph.value_info[:]
    for key, text in metadata.to_texts(_describe_function(trained, with_preprocessing)).items():
        onnx.metadata_props.add(key=key, value=text)
    path.write_bytes(onnx.SerializeToString())


def _read_onnx(path: Path, trained: TrainedModel, with_preprocessing: bool = False) -> Predict:
    runtime = extras.load("onnxruntime", path.name)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": _inputs(images, trained, with_preprocessing)})[0]


FORMATS = {
    "orbax": ExportFormat("", 0.0, _write_orbax, _read_orbax),
    "safetensors": ExportFormat(".safetensors", 0.0, _write_weights, _read_weights),
    "keras": ExportFormat(
        ".weights.h5",
        1e-4,
        functools.partial(_write_weights, format="keras"),
        functools.partial(_read_weights, format="keras"),
    ),
    "stablehlo": ExportFormat(".stablehlo", 1e-4, _write_stablehlo, _read_stablehlo, takes_uint8=True, beside=".json"),
    "onnx": ExportFormat(".onnx", 1e-4, _write_onnx, _read_onnx, takes_uint8=True),
}
"""The formats by name. Those that hold weights bit for bit have the bound 0; Keras' scales go into its kernels.

`orbax` is for use and training here, `safetensors` for PyTorch (timm, facenet), `keras` for Keras' InceptionV3 and
InceptionResNetV2, `stablehlo` for running without this package (JAX, TensorFlow, IREE), `onnx` for ONNX Runtime.
"""
