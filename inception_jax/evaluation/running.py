"""From checkpoints and what is asked to predictions."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from inception_jax import build, hosts
from inception_jax.config import DataConfig, Experiment
from inception_jax.data import Protocol, excluded
from inception_jax.data.sources import Source
from inception_jax.errors import UserError
from inception_jax.evaluation import trained
from inception_jax.evaluation.asked import Asked
from inception_jax.evaluation.predictions import Images, Predictions
from inception_jax.evaluation.probabilities import Show, predict, rows_per_step
from inception_jax.evaluation.trained import Trained
from inception_jax.evaluation.unfinished import Unfinished
from inception_jax.preemption import Preemption
from inception_jax.progress import say


def run(
    checkpoints: Sequence[str],
    asked: Asked,
    others: Sequence[Predictions],
    *,
    named: bool,
    out: str | None,
    preemption: Preemption,
) -> Predictions | None:
    """What the networks of these checkpoints say; None in all processes but the first.

    Args:
      checkpoints: as for `trained.load`.
      asked: which images and which crops.
      others: predictions that these are to be joined with; that it can be is checked first, as far as it is known.
      named: whether the images' names are wanted, for which some sources must read them all again.
      out: directory where what is done is kept, and was.
      preemption: as for `predict`.

    Raises:
      UserError, RunFailed, Preempted: as `evaluate`.
    """
    protocol = Protocol(asked.crops, asked.scales)
    members = [trained.load(path, protocol, raw=asked.raw, image_size=asked.image_size) for path in checkpoints]
    data = _data(members, asked)
    source = build.source(Experiment(data=data), "validation")
    left_out = excluded(asked.exclude_list, source, _first_says) if asked.exclude_list else np.arange(0)
    indices = np.setdiff1d(np.arange(len(source)), left_out)
    _check_images(members, others, source, data.source, indices)
    show = Show(source, indices, protocol, rows_per_step(asked.tta_batch, protocol), data)
    facts = _facts(members, show, left_out)
    hosts.check_agreement(facts)
    seen, labels, probabilities = predict(members, show, unfinished=_open(out, facts), preemption=preemption)
    if jax.process_index():
        return None
    skipped = len(indices) - len(seen)
    if not len(seen):
        raise UserError(f"there is no image to evaluate: {skipped} were skipped as broken.")
    images = Images(data.source, len(source), len(left_out), asked.exclude_list, skipped)
    files = _names(source, indices[seen]) if named else np.array([], str)
    return Predictions(images, tuple(member.facts for member in members), labels, files, probabilities)


def _data(members: Sequence[Trained], asked: Asked) -> DataConfig:
    """Where the images come from and how they are read: as asked, else as in the training of all members."""
    theirs = [member.data for member in members if member.data]
    own = theirs[0] if len(theirs) == len(members) else None
    images = {(one.source, one.data_dir, one.validation_images) for one in theirs}
    if asked.data is None and (own is None or len(images) > 1):
        raise UserError(
            "say with --data which images: the checkpoints do not all say, and say alike, what they were trained on."
        )
    data = own or DataConfig()
    if asked.data is not None:
        data = dataclasses.replace(data, validation_images=None)  # A source that is named is meant whole.
    changes: dict[str, Any] = {
        "source": asked.data,
        "data_dir": asked.data_dir,
        "on_error": asked.on_error,
        "threads": asked.threads,
    }
    return dataclasses.replace(data, **{k: v for k, v in changes.items() if v is not None})


def _check_images(
    members: Sequence[Trained], others: Sequence[Predictions], source: Source, name: str, indices: np.ndarray
) -> None:
    """Raises UserError unless there are images, and of as many classes as the members and the others know."""
    if not len(indices):
        raise UserError(f"no image of {name} is left to evaluate: all {len(source):,} are excluded.")
    known = {member.facts.path: member.classes for member in members}
    known |= {other.models[0].path: other.probabilities.shape[2] for other in others}
    for path, classes in known.items():
        if classes != source.num_classes:
            raise UserError(f"{name} has {source.num_classes} classes, but the network of {path} knows {classes}.")
    for other in others:
        images = len(other.labels) + other.images.skipped
        if images != len(indices):
            raise UserError(
                f"the saved predictions of {other.models[0].path} are about {images:,} images of {other.images.source} "
                f"and these would be about {len(indices):,} of {name}; they form no ensemble."
            )


def _facts(members: Sequence[Trained], show: Show, left_out: np.ndarray) -> dict[str, Any]:
    """All that the numbers depend on, as JSON values: of processes that work together and of those that go on."""
    models = [dataclasses.asdict(member.facts) for member in members]
    return {
        **{key: [model[key] for model in models] for key in models[0]},
        "source": show.data.source,
        "number of images": len(show.source),
        "excluded images": hashlib.sha256(left_out.astype(np.int64).tobytes()).hexdigest(),
        "views at once (--tta-batch)": show.rows,
        "number of processes": jax.process_count(),
    }


def _open(out: str | None, facts: dict[str, Any]) -> Unfinished | None:
    """Where the first process keeps what is done."""
    opened: list[Unfinished] = []
    if out:
        hosts.first_alone(lambda: opened.append(Unfinished(Path(out), facts)))
    return opened[0] if opened else None


def _names(source: Source, indices: np.ndarray) -> np.ndarray:
    """The names of images, str [N]."""
    return np.array([source.name(i) for i in indices.tolist()], str)


def _first_says(line: str) -> None:
    if jax.process_index() == 0:
        say(line)
