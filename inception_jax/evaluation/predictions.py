"""Predictions of models and their files, which form ensembles without running the models again.

A file is an .npz: `labels` int32 [N], `files` str [N], `models` str [M], `probabilities` float32 [M, N, C] and
`metadata`, a JSON text of `Images`, each `Model` and the names of the C classes. Nothing in it is unpickled.
"""

import dataclasses
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.errors import UserError, reason
from inception_jax.evaluation.classes import Outputs, reorder
from inception_jax.system.atomic import atomic_write
from inception_jax.system.file_format import KEY, check_format, with_format

SUFFIX = ".npz"


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of an evaluation."""

    source: str
    """The data source, as the user named it."""
    of: int
    """Number of images of the source."""
    excluded: int = 0
    """Number of images excluded by the exclude list."""
    exclude_list: str | None = None
    """File of the exclude list."""
    skipped: int = 0
    """Number of further images left out as broken."""
    unknown: int = 0
    """Number of further images left out because no network knows their class."""
    unknown_classes: tuple[str, ...] = ()
    """Names of those classes."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Description of a trained network and of the crops it was evaluated on."""

    path: str
    """Path of the checkpoint, as the user named it."""
    network: Mapping[str, Any]
    """Arguments of `create_model`, as given by `models.describe`."""
    step: int | None
    """Step of a run's checkpoint; None for others."""
    parameters: str | None
    """"averaged" or "raw" parameters of a run; None for others."""
    checksum: str
    """Hash of the checkpoint's checksums, its identity."""
    crops: int
    """The protocol: 1, 10, 12 or 144."""
    scales: tuple[int, ...]
    """Shorter sides for an input of 224; empty is the protocol's own."""
    views: int
    """Number of crops per image, including mirror images."""
    image_size: int
    """Side of the network's input in pixels."""
    central_fraction: float
    """Central fraction of the single crop."""
    resize: str
    """Interpolation of pixels."""
    matched_by: str = "number"
    """"name" or "number": how its classes were matched with those of the images."""

    @property
    def name(self) -> str:
        """Name for display."""
        from_run = f", {self.parameters} parameters of step {self.step}" if self.step is not None else ""
        return f"{self.path} ({self.network['name']}{from_run})"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of several models for the same images."""

    images: Images
    models: tuple[Model, ...]
    labels: np.ndarray
    """int32 [N]."""
    files: np.ndarray
    """str [N]: names of the images in their source; [0] if not requested."""
    probabilities: np.ndarray
    """float32 [M, N, C]: mean of each model's softmax over its crops."""
    class_names: tuple[str, ...] = ()
    """Names of the C classes; empty where unknown."""

    @property
    def outputs(self) -> Outputs:
        """Its classes."""
        return Outputs(self.models[0].path, self.probabilities.shape[2], self.class_names)


def join(parts: Sequence[Predictions]) -> Predictions:
    """Joins the models of all parts, in the first one's order of classes.

    Parts without names of their classes are taken to have the order of those with names.

    Raises:
      UserError: their images or classes are not the same.
    """
    names = next((part.class_names for part in parts if part.class_names), ())
    first, *others = (part if part.class_names else dataclasses.replace(part, class_names=names) for part in parts)
    others = [_with_classes_of(first, other) for other in others]
    for other in others:
        difference = _difference(first, other)
        if difference:
            ours, theirs = (part.models[0].path for part in (first, other))
            raise UserError(f"{ours} and {theirs} are of different images: {difference}; they cannot be ensembled.")
    if not others:
        return first
    return dataclasses.replace(
        first,
        models=tuple(model for part in (first, *others) for model in part.models),
        probabilities=np.concatenate([part.probabilities for part in (first, *others)]),
    )


def _difference(first: Predictions, other: Predictions) -> str | None:
    images = len(first.labels)
    if len(other.labels) != images:
        return f"{images:,} and {len(other.labels):,} images"
    differ = np.flatnonzero((first.files != other.files) | (first.labels != other.labels))
    if differ.size:
        i = differ[0]
        named = (f"{part.files[i]} of class {part.labels[i]}" for part in (first, other))
        return f"image {i + 1} is {' and '.join(named)}"
    return None


def _with_classes_of(first: Predictions, other: Predictions) -> Predictions:
    """`other` with its classes in the order of `first`."""
    if first.outputs.count != other.outputs.count:
        raise UserError(
            f"{first.outputs.path} and {other.outputs.path} have {first.outputs.count} and {other.outputs.count} "
            "classes; they cannot be ensembled."
        )
    order = reorder(first.outputs, other.outputs)
    if order is None:
        return other
    labels = np.argsort(order)[other.labels].astype(other.labels.dtype)
    return dataclasses.replace(
        other, labels=labels, probabilities=other.probabilities[:, :, order], class_names=first.class_names
    )


def write(path: str | Path, predictions: Predictions) -> None:
    """Writes the file atomically; RunFailed if that fails."""
    models = [dataclasses.asdict(model) for model in predictions.models]
    metadata = with_format(
        {
            "images": dataclasses.asdict(predictions.images),
            "models": models,
            "class_names": list(predictions.class_names),
        }
    )
    with atomic_write(Path(path)) as file:
        np.savez(
            file,
            labels=predictions.labels,
            files=predictions.files,
            models=np.array([model.name for model in predictions.models]),
            probabilities=predictions.probabilities,
            metadata=np.array(json.dumps(metadata)),
        )


def read(path: str | Path) -> Predictions:
    """The inverse of `write`; UserError names a file that is not one of these."""
    try:
        if Path(path).is_file() and not zipfile.is_zipfile(path):
            raise ValueError("it is not an .npz file")
        with np.load(path, allow_pickle=False) as file:
            metadata = json.loads(str(file["metadata"]))
            check_format(path, metadata.get(KEY))
            labels, files, probabilities = (file[name] for name in ("labels", "files", "probabilities"))
        class_names = tuple(metadata.get("class_names", ()))
        images = Images(
            **{**metadata["images"], "unknown_classes": tuple(metadata["images"].get("unknown_classes", ()))}
        )
        models = tuple(Model(**{**model, "scales": tuple(model["scales"])}) for model in metadata["models"])
        if probabilities.shape[:2] != (len(models), len(labels)) or files.shape != labels.shape:
            raise ValueError(f"its arrays do not fit together: {probabilities.shape}, {labels.shape}, {files.shape}")
        if labels.size and not 0 <= labels.min() <= labels.max() < probabilities.shape[2]:
            raise ValueError(f"its labels are not all among its {probabilities.shape[2]} classes")
        if len(class_names) not in (0, probabilities.shape[2]):
            raise ValueError(f"it has {len(class_names)} names for {probabilities.shape[2]} classes")
        return Predictions(images, models, labels, files, probabilities, class_names)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}; evaluate --save-predictions writes one.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} was not written by --save-predictions: {reason(error)}.") from error
