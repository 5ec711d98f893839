"""Predictions of the networks of checkpoints."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from inception_jax import build
from inception_jax.config import DataConfig, Experiment
from inception_jax.data import Protocol, excluded
from inception_jax.data.sources import Source
from inception_jax.errors import UserError
from inception_jax.evaluation.members import Member, load_member
from inception_jax.evaluation.options import EvaluationOptions
from inception_jax.evaluation.partial_results import PartialResults
from inception_jax.evaluation.predictions import Images, Predictions
from inception_jax.evaluation.probabilities import CropLoader, predict, rows_per_step
from inception_jax.system import hosts
from inception_jax.system.preemption import Preemption
from inception_jax.system.progress import say


def run_networks(
    checkpoints: Sequence[str],
    options: EvaluationOptions,
    saved: Sequence[Predictions],
    *,
    with_names: bool,
    out: str | None,
    preemption: Preemption,
) -> Predictions | None:
    """Runs the networks of these checkpoints; returns None on all processes but process 0.

    Args:
      checkpoints: as for `members.load_member`.
      options: which images and which crops.
      saved: predictions that these are to be joined with; that it can be is checked first, as far as it is known.
      with_names: whether the images' names are wanted, for which some sources must read them all again.
      out: directory where what is done is kept, and was.
      preemption: as for `predict`.

    Raises:
      UserError, RunFailed, Preempted: as `evaluate`.
    """
    protocol = Protocol(options.crops, options.scales)
    members = [load_member(path, protocol, raw=options.raw, image_size=options.image_size) for path in checkpoints]
    data = _data(members, options)
    source = build.source(Experiment(data=data), "validation")
    excluded_indices = (
        excluded(options.exclude_list, source, _say_on_process_zero) if options.exclude_list else np.arange(0)
    )
    indices = np.setdiff1d(np.arange(len(source)), excluded_indices)
    _check_images(members, saved, source, data.source, indices)
    loader = CropLoader(source, indices, protocol, rows_per_step(options.tta_batch, protocol), data)
    settings = _settings(members, loader, excluded_indices)
    hosts.check_agreement(settings)
    seen, labels, probabilities = predict(members, loader, partial_results=_open(out, settings), preemption=preemption)
    if jax.process_index():
        return None
    skipped = len(indices) - len(seen)
    if not len(seen):
        raise UserError(f"there is no image to evaluate: {skipped} were skipped as broken.")
    images = Images(data.source, len(source), len(excluded_indices), options.exclude_list, skipped)
    files = _names(source, indices[seen]) if with_names else np.array([], str)
    return Predictions(images, tuple(member.description for member in members), labels, files, probabilities)


def _data(members: Sequence[Member], options: EvaluationOptions) -> DataConfig:
    """The data to evaluate on: as in `options`, else as in the training of all members."""
    theirs = [member.data for member in members if member.data]
    own = theirs[0] if len(theirs) == len(members) else None
    images = {(one.source, one.data_dir, one.validation_images) for one in theirs}
    if options.data is None and (own is None or len(images) > 1):
        raise UserError(
            "say with --data which images: the checkpoints do not all say, and say alike, what they were trained on."
        )
    data = own or DataConfig()
    if options.data is not None:
        data = dataclasses.replace(data, validation_images=None)  # A source that is named is meant whole.
    changes: dict[str, Any] = {
        "source": options.data,
        "data_dir": options.data_dir,
        "on_error": options.on_error,
        "threads": options.threads,
    }
    return dataclasses.replace(data, **{k: v for k, v in changes.items() if v is not None})


def _check_images(
    members: Sequence[Member], saved: Sequence[Predictions], source: Source, name: str, indices: np.ndarray
) -> None:
    """Raises UserError unless there are images, and of as many classes as the members and the others know."""
    if not len(indices):
        raise UserError(f"no image of {name} is left to evaluate: all {len(source):,} are excluded.")
    known = {member.description.path: member.num_classes for member in members}
    known |= {other.models[0].path: other.probabilities.shape[2] for other in saved}
    for path, classes in known.items():
        if classes != source.num_classes:
            raise UserError(f"{name} has {source.num_classes} classes, but the network of {path} knows {classes}.")
    for other in saved:
        images = len(other.labels) + other.images.skipped
        if images != len(indices):
            raise UserError(
                f"the saved predictions of {other.models[0].path} are about {images:,} images of {other.images.source} "
                f"and these would be about {len(indices):,} of {name}; they form no ensemble."
            )


def _settings(members: Sequence[Member], loader: CropLoader, excluded_indices: np.ndarray) -> dict[str, Any]:
    """Everything that the numbers depend on, as JSON values, which processes and resumed evaluations must share."""
    models = [dataclasses.asdict(member.description) for member in members]
    return {
        **{key: [model[key] for model in models] for key in models[0]},
        "source": loader.data.source,
        "number of images": len(loader.source),
        "excluded images": hashlib.sha256(excluded_indices.astype(np.int64).tobytes()).hexdigest(),
        "views at once (--tta-batch)": loader.rows,
        "number of processes": jax.process_count(),
    }


def _open(out: str | None, settings: dict[str, Any]) -> PartialResults | None:
    """The partial results, on process 0."""
    opened: list[PartialResults] = []
    if out:
        hosts.on_process_zero(lambda: opened.append(PartialResults(Path(out), settings)))
    return opened[0] if opened else None


def _names(source: Source, indices: np.ndarray) -> np.ndarray:
    """The names of images, str [N]."""
    return np.array([source.name(i) for i in indices.tolist()], str)


def _say_on_process_zero(line: str) -> None:
    if jax.process_index() == 0:
        say(line)
