"""Classes of pictures, predicted by a trained network."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from inception_jax.benchmark import fitting_batch
from inception_jax.data import colour, preprocess
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import UserError
from inception_jax.system.memory import explain_out_of_memory
from inception_jax.weights.checkpoint import load_checkpoint


def predict(
    checkpoint: str | Path, images: Sequence[str | Path], *, top: int = 5, batch_size: int = 16
) -> Iterator[dict]:
    """Predicts the most likely classes of pictures, in the order given.

    Args:
      checkpoint: path of a checkpoint, as for `load_checkpoint`.
      images: paths of image files of any size and any format that can be decoded.
      top: number of classes per picture.
      batch_size: number of pictures per step.

    Yields:
      For each picture {"image": path, "classes": [{"index", "name", "probability"}, ...]}, or {"image", "error"} if it
      cannot be read.

    Raises:
      UserError: the checkpoint cannot be read, or has no classifier; the memory does not suffice for a batch.
    """
    model, variables, preprocessing = load_checkpoint(checkpoint)
    if model.num_classes - preprocessing.label_offset < 1 or "classifier" not in variables["params"]:
        raise UserError(f"{checkpoint} has no classifier, so there are no classes to predict.")

    @jax.jit
    def probabilities(variables: Any, pixels: jax.Array) -> jax.Array:
        logits: Any = model.apply(variables, colour.to_network_range(pixels, preprocessing.mean, preprocessing.std))
        # The background is not a class: the others sum to one without it.
        return jax.nn.softmax(logits[:, preprocessing.label_offset :].astype(jnp.float32))

    def too_large() -> str:
        size, batch = preprocessing.image_size, min(batch_size, len(images))
        estimate = fitting_batch.inference(model, size)
        return f"{fitting_batch.sentence('--batch-size', batch, size, estimate, devices=1)}."

    variables = jax.device_put(variables)
    for first in range(0, len(images), batch_size):
        paths = images[first : first + batch_size]
        read = [_read(path, preprocessing) for path in paths]
        with explain_out_of_memory(too_large):
            pixels = np.zeros(
                (min(batch_size, len(images)), preprocessing.image_size, preprocessing.image_size, 3), np.uint8
            )
            for row, picture in enumerate(read):
                if isinstance(picture, np.ndarray):
                    pixels[row] = picture
            results = np.asarray(probabilities(variables, pixels))
        for path, picture, row in zip(paths, read, results, strict=False):
            if isinstance(picture, str):
                yield {"image": str(path), "error": picture}
            else:
                yield {"image": str(path), "classes": _top_classes(row, top, preprocessing)}


def _read(path: str | Path, preprocessing: Preprocessing) -> np.ndarray | str:
    """The preprocessed picture, or the reason why it cannot be read."""
    try:
        picture = preprocess.decode(Path(path).read_bytes(), str(path))
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}."
    return preprocess.central_crop(
        picture, size=preprocessing.image_size, fraction=preprocessing.central_fraction, resize=preprocessing.resize
    )


def _top_classes(row: np.ndarray, top: int, preprocessing: Preprocessing) -> list[dict[str, Any]]:
    names = preprocessing.class_names or tuple(f"class {i}" for i in range(len(row)))
    return [{"index": int(i), "name": names[i], "probability": float(row[i])} for i in np.argsort(-row)[:top]]


def table(answer: dict[str, Any]) -> str:
    """Text table of one picture's predictions."""
    lines = [f"  {c['probability']:>7.2%}  {c['name']}" for c in answer["classes"]]
    return "\n".join([answer["image"], *lines])
