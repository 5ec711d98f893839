"""Predictions of models, and their files, from which ensembles are formed without running the models again.

A file is NumPy's .npz: `labels` int32 [N], `files` str [N], `models` str [M], `probabilities` float32 [M, N, C] and
`metadata`, JSON text of `Images` and each `Model`. Nothing in it is ever unpickled.
"""

import dataclasses
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.errors import UserError, reason
from inception_jax.system.atomic import atomic_write
from inception_jax.system.file_format import KEY, check_format, with_format

SUFFIX = ".npz"


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of an evaluation."""

    source: str
    """The data source, as the user named it."""
    of: int
    """Number of images of the source."""
    excluded: int = 0
    """Number of images left out by an exclude list."""
    exclude_list: str | None = None
    """File of the exclude list."""
    skipped: int = 0
    """Number of further images left out as broken."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Description of a trained network and of the crops it was evaluated on."""

    path: str
    """Path of the checkpoint, as the user named it."""
    network: Mapping[str, Any]
    """Result of `models.describe`."""
    step: int | None
    """Step of a run's checkpoint; None for others."""
    parameters: str | None
    """"averaged" or "raw" parameters of a run; None for others."""
    checksum: str
    """Hash of the checkpoint's checksums, which identifies it."""
    crops: int
    """The protocol: 1, 10, 12 or 144."""
    scales: tuple[int, ...]
    """Shorter sides for an input of 224; empty for the protocol's own."""
    views: int
    """Number of crops per image, mirror images counted."""
    image_size: int
    """Side of the network's input in pixels."""
    central_fraction: float
    """Central fraction of the single crop."""
    resize: str
    """Interpolation of pixels."""

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
    """str [N]: the images' names as their source has them; [0] where nobody asked for them."""
    probabilities: np.ndarray
    """float32 [M, N, C]: the mean of each model's softmax over its crops."""


def join(parts: Sequence[Predictions]) -> Predictions:
    """The models of all parts together; UserError unless they saw the same images."""
    first, *others = parts
    for other in others:
        difference = _difference(first, other)
        if difference:
            ours, theirs = (part.models[0].path for part in (first, other))
            raise UserError(f"{ours} and {theirs} are not about the same images: {difference}; they form no ensemble.")
    if not others:
        return first
    return dataclasses.replace(
        first,
        models=tuple(model for part in parts for model in part.models),
        probabilities=np.concatenate([part.probabilities for part in parts]),
    )


def _difference(first: Predictions, other: Predictions) -> str | None:
    classes, images = first.probabilities.shape[2], len(first.labels)
    if other.probabilities.shape[2] != classes:
        return f"{classes} and {other.probabilities.shape[2]} classes"
    if len(other.labels) != images:
        return f"{images:,} and {len(other.labels):,} images"
    differ = np.flatnonzero((first.files != other.files) | (first.labels != other.labels))
    if differ.size:
        i = differ[0]
        named = (f"{part.files[i]} of class {part.labels[i]}" for part in (first, other))
        return f"image {i + 1} is {' and '.join(named)}"
    return None


def write(path: str | Path, predictions: Predictions) -> None:
    """Writes the file atomically; RunFailed if that fails."""
    models = [dataclasses.asdict(model) for model in predictions.models]
    metadata = with_format({"images": dataclasses.asdict(predictions.images), "models": models})
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
            raise ValueError("it is no .npz file")
        with np.load(path, allow_pickle=False) as file:
            metadata = json.loads(str(file["metadata"]))
            check_format(path, metadata.get(KEY))
            labels, files, probabilities = (file[name] for name in ("labels", "files", "probabilities"))
        models = tuple(Model(**{**model, "scales": tuple(model["scales"])}) for model in metadata["models"])
        if probabilities.shape[:2] != (len(models), len(labels)) or files.shape != labels.shape:
            raise ValueError(f"its arrays do not fit together: {probabilities.shape}, {labels.shape}, {files.shape}")
        return Predictions(Images(**metadata["images"]), models, labels, files, probabilities)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}; evaluate --save-predictions writes one.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no file that --save-predictions wrote: {reason(error)}.") from error
