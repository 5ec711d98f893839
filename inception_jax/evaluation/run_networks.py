"""Predictions of the networks of checkpoints."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from inception_jax import build
from inception_jax.config import DataConfig, Experiment
from inception_jax.data import Protocol, excluded
from inception_jax.data.sources import Source
from inception_jax.errors import UserError
from inception_jax.evaluation.finished_networks import FinishedNetworks
from inception_jax.evaluation.members import Member, load_member
from inception_jax.evaluation.options import EvaluationOptions
from inception_jax.evaluation.predictions import Images, Predictions, join
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
    finished: FinishedNetworks,
    preemption: Preemption,
) -> Predictions | None:
    """Runs the networks of these checkpoints; returns None on all processes but process 0.

    Args:
      checkpoints: as for `members.load_member`.
      options: which images and which crops.
      saved: predictions that these are to be joined with; that it can be is checked first, as far as it is known.
      with_names: whether the images' names are wanted, for which some sources must read them all again.
      finished: the networks that are not run again; the others are added.
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
    settings = [_settings(member, loader, excluded_indices) for member in members]
    hosts.check_agreement({key: [one[key] for one in settings] for key in settings[0]})
    images = Images(data.source, len(source), len(excluded_indices), options.exclude_list)
    found = _run_unfinished(members, loader, images, settings, finished, preemption)
    if jax.process_index():
        return None
    together = join(found)
    if not len(together.labels):
        raise UserError(f"there is no image to evaluate: {together.images.skipped} were skipped as broken.")
    names = _names(source, together.files.astype(int)) if with_names else np.array([], str)
    return dataclasses.replace(together, files=names)


def _run_unfinished(
    members: Sequence[Member],
    loader: CropLoader,
    images: Images,
    settings: Sequence[dict[str, Any]],
    finished: FinishedNetworks,
    preemption: Preemption,
) -> list[Predictions]:
    """On process 0 the predictions of each member, with the images' numbers in place of their names."""
    found: list[Predictions] = []

    def read(settings: dict[str, Any]) -> int | None:
        before = finished.read(settings)
        if before:
            found.append(before)
            say(f"{before.models[0].name} is done already")
        return 1 if before else None

    for number, member in enumerate(members):
        if hosts.process_zero_decides(functools.partial(read, settings[number])):
            continue
        result = predict(member, loader, number=number, count=len(members), preemption=preemption)
        if result:
            seen, labels, probabilities = result
            skipped = dataclasses.replace(images, skipped=len(loader.indices) - len(seen))
            files = loader.indices[seen].astype(str)
            found.append(Predictions(skipped, (member.description,), labels, files, probabilities[None]))
            finished.write(settings[number], found[-1])
    return found


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


def _settings(member: Member, loader: CropLoader, excluded_indices: np.ndarray) -> dict[str, Any]:
    """Everything that a network's numbers depend on, as JSON values, which processes and resumed evaluations share."""
    return {
        **dataclasses.asdict(member.description),
        "source": loader.data.source,
        "number of images": len(loader.source),
        "excluded images": hashlib.sha256(excluded_indices.astype(np.int64).tobytes()).hexdigest(),
        "on_error": loader.data.on_error,
        "views at once (--tta-batch)": loader.rows,
        "number of processes": jax.process_count(),
    }


def _names(source: Source, indices: np.ndarray) -> np.ndarray:
    """The names of images, str [N]."""
    return np.array([source.name(i) for i in indices.tolist()], str)


def _say_on_process_zero(line: str) -> None:
    if jax.process_index() == 0:
        say(line)
