"""Classes of pictures, predicted by a trained network."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from inception_jax.benchmark import fitting_batch
from inception_jax.data import colour, preprocess
from inception_jax.errors import BrokenImage, UserError
from inception_jax.system.memory import explain_out_of_memory
from inception_jax.system.names import printable
from inception_jax.weights.checkpoint import load_checkpoint

# Of Pillow; the values of the others have no fixed range, or no fixed conversion to RGB.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A class and its probability."""

    index: int
    """Number of the class, from 0."""
    name: str
    """Name of the class, "class 12" where the network has none."""
    probability: float


class Predictor:
    """Trained network that is loaded and compiled once and then classifies pictures, from any number of threads."""

    def __init__(self, checkpoint: str | Path, *, raw: bool = False, best: bool = False, batch_size: int = 16):
        """Loads and compiles the network.

        Args:
          checkpoint: path of a checkpoint, as for `load_checkpoint`.
          raw: take a run's trained parameters rather than their moving average.
          best: take a run's checkpoint with the lowest validation error rather than its newest.
          batch_size: number of pictures per step. Fewer are filled up, so that nothing is compiled again; 1 is fastest
            for pictures that come one by one.

        Raises:
          UserError: the checkpoint cannot be read, or has no classifier; `batch_size` is below 1, or too large for the
            memory.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be 1 or more.")
        model, variables, self._preprocessing = load_checkpoint(checkpoint, raw=raw, best=best)
        offset, mean, std = self._preprocessing.label_offset, self._preprocessing.mean, self._preprocessing.std
        classes = model.num_classes - offset
        if classes < 1 or "classifier" not in variables["params"]:
            raise UserError(f"{checkpoint} has no classifier, so there are no classes to predict.")

        def probabilities(variables: Any, pixels: jax.Array) -> jax.Array:
            logits: Any = model.apply(variables, colour.to_network_range(pixels, mean, std))
            # The background is not a class: the others sum to one without it.
            return jax.nn.softmax(logits[:, offset:].astype(jnp.float32))

        names = self._preprocessing.class_names
        self._names = names + tuple(f"class {number}" for number in range(len(names), classes))
        size = self._preprocessing.image_size
        self._batch, self._model = (batch_size, size, size, 3), model
        with explain_out_of_memory(self._too_large):
            self._variables = jax.device_put(variables)
            pixels = jax.ShapeDtypeStruct(self._batch, np.uint8)
            self._probabilities = jax.jit(probabilities).lower(self._variables, pixels).compile()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, "class 12" where the network has none."""
        return self._names

    @property
    def batch_size(self) -> int:
        """Number of pictures per step."""
        return self._batch[0]

    def __call__(self, images: Sequence[Any], *, top: int = 5) -> list[list[Prediction]]:
        """The `top` most likely classes of each picture, the most likely first.

        Args:
          images: any number of pictures, each the path or the contents (bytes) of an image file, a uint8 array [H, W]
            or [H, W, C] in RGB, or an image of Pillow. As in training, the orientation in EXIF is not applied.
          top: number of classes per picture.

        Raises:
          BrokenImage: a picture cannot be read or decoded.
          UserError: `images` is a single picture rather than a sequence, or `top` is below 1.
        """
        if top < 1:
            raise UserError(f"top is {top}; it must be 1 or more.")
        return [self._top_classes(row, top) for row in self.probabilities(images)]

    def probabilities(self, images: Sequence[Any]) -> np.ndarray:
        """Probabilities of all classes for each picture, as for a call: float32 [N, classes]."""
        if isinstance(images, str | bytes | os.PathLike) or not hasattr(images, "__len__") or _is_picture(images):
            raise UserError(f"Predictor takes a list of pictures, not one {type(images).__name__}: give [picture].")
        found = [np.zeros((0, len(self._names)), np.float32)]
        for first in range(0, len(images), self.batch_size):
            part = images[first : first + self.batch_size]
            with explain_out_of_memory(self._too_large):
                pixels = np.zeros(self._batch, np.uint8)
                for row, image in enumerate(part):
                    pixels[row] = self._crop(image, f"at position {first + row}")
                found.append(np.asarray(self._probabilities(self._variables, pixels))[: len(part)])
        return np.concatenate(found)

    def _too_large(self) -> str:
        size = self._preprocessing.image_size
        estimate = fitting_batch.inference(self._model, size)
        return f"{fitting_batch.sentence('--batch-size', self.batch_size, size, estimate, devices=1)}."

    def _crop(self, image: Any, name: str) -> np.ndarray:
        """The network's crop of a picture: uint8 [S, S, 3]; `name` stands for a picture that is no file."""
        p = self._preprocessing
        return preprocess.central_crop(
            _read(image, name), size=p.image_size, fraction=p.central_fraction, resize=p.resize
        )

    def _top_classes(self, row: np.ndarray, top: int) -> list[Prediction]:
        return [Prediction(int(i), self._names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]


def predict(predictor: Predictor, paths: Sequence[str | Path], *, top: int = 5) -> Iterator[dict[str, Any]]:
    """Classifies image files, in the order given, and passes over those that cannot be read.

    Yields:
      For each file {"image": path, "classes": [{"index", "name", "probability"}, ...]}, or {"image", "error"} if it
      cannot be read.
    """
    for first in range(0, len(paths), predictor.batch_size):
        part = paths[first : first + predictor.batch_size]
        read = [_read_or_reason(path) for path in part]
        answers = iter(predictor([picture for picture in read if not isinstance(picture, str)], top=top))
        for path, picture in zip(part, read, strict=True):
            if isinstance(picture, str):
                yield {"image": str(path), "error": picture}
            else:
                yield {"image": str(path), "classes": [dataclasses.asdict(prediction) for prediction in next(answers)]}


def table(answer: dict[str, Any]) -> str:
    """Text table of one picture's predictions."""
    lines = [f"  {c['probability']:>7.2%}  {printable(c['name'])}" for c in answer["classes"]]
    return "\n".join([printable(answer["image"]), *lines])


def _read_or_reason(path: str | Path) -> np.ndarray | str:
    """The decoded picture, or the reason why it cannot be read."""
    try:
        return _read(path, str(path))
    except UserError as error:
        return str(error)


def _read(image: Any, name: str) -> np.ndarray:
    """A decoded picture: uint8 [H, W, 3]."""
    if isinstance(image, str | os.PathLike):
        try:
            return preprocess.decode(Path(image).read_bytes(), str(image))
        except IsADirectoryError as error:
            raise BrokenImage(f"{os.fspath(image)} is a folder; give the images in it, such as its *.jpg.") from error
        except OSError as error:
            raise BrokenImage(f"{os.fspath(image)} cannot be read: {error.strerror}.") from error
    if isinstance(image, bytes | bytearray | memoryview):
        return preprocess.decode(bytes(image), name)
    return preprocess.decode(_from_pillow(image, name) if _is_pillow(image) else np.asarray(image), name)


def _from_pillow(image: Any, name: str) -> np.ndarray:
    if image.mode not in _MODES:
        raise BrokenImage(
            f"the image {name} is one of Pillow with the mode {image.mode}; it must be one of {', '.join(_MODES)}. "
            "Give the path or the bytes of its file."
        )
    try:
        # A palette by way of RGBA, as in `preprocess.decode`.
        return np.array(image.convert("RGBA").convert("RGB") if image.mode in ("P", "PA") else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow reads the pixels only now.
        raise BrokenImage(f"the image {name} is broken: {str(error).rstrip('.')}.") from error


def _is_pillow(image: Any) -> bool:
    # Not by its type, because only `data` imports Pillow.
    return hasattr(image, "mode") and hasattr(image, "convert")


def _is_picture(images: Any) -> bool:
    """Whether it is one picture rather than a sequence: iterating over its rows would give an answer for each."""
    return _is_pillow(images) or (hasattr(images, "ndim") and images.ndim != 4)
