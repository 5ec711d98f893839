"""Predictions of the networks of checkpoints, and the options of an evaluation."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from inception_jax import build
from inception_jax.config import DataConfig, Experiment, OnError
from inception_jax.data import Protocol, excluded, of_unknown_classes
from inception_jax.data.sources import Source, describe_layout, relabel, same_source
from inception_jax.errors import UserError
from inception_jax.evaluation import classes
from inception_jax.evaluation.classes import Matching, UnknownClasses
from inception_jax.evaluation.finished_networks import FinishedNetworks
from inception_jax.evaluation.members import Member, load_member
from inception_jax.evaluation.predictions import Images, Predictions, join
from inception_jax.evaluation.probabilities import CropLoader, predict, rows_per_step
from inception_jax.system import hosts
from inception_jax.system.preemption import Preemption
from inception_jax.system.progress import say


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """Data set, crops and batch size of an evaluation."""

    crops: Literal[1, 10, 12, 144] = 1
    """Number of crops per image, as in `data.Protocol`."""
    scales: tuple[int, ...] = ()
    """Scales of the crops, as in `data.Protocol`."""
    data: str | None = None
    """Data source; None is the one that all networks were trained on."""
    data_dir: str | None = None
    """Directory of prepared data sets, as in `config.DataConfig`."""
    exclude_list: str | None = None
    """File with a list of images to exclude, as in `data.excluded`."""
    on_error: OnError | None = None
    """Handling of broken images; None is that of the training, else "stop"."""
    unknown_classes: UnknownClasses = "refuse"
    """Handling of images whose class the networks do not know: an error, or left out and counted."""
    image_size: int | None = None
    """Side of the networks' input in pixels; None is each network's own."""
    raw: bool = False
    """Use the raw parameters of runs rather than the averaged ones."""
    best: bool = False
    """Use the checkpoint of each run with the lowest validation error rather than the newest."""
    tta_batch: int | None = None
    """Crops per step over all devices; None depends on the kind of device."""
    threads: int | None = None
    """Number of threads that read and decode, as in `config.DataConfig`."""

    def flags(self) -> list[str]:
        """Command-line flags of the options that differ from their defaults."""
        given = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        return [f"--{name.replace('_', '-')}" for name in given]


def run_networks(
    checkpoints: Sequence[str],
    options: EvaluationOptions,
    saved: Sequence[Predictions],
    *,
    with_names: bool,
    finished: FinishedNetworks,
    preemption: Preemption,
) -> Predictions | None:
    """Runs the networks of checkpoints, but for those that are finished already.

    Args:
      checkpoints: paths, as for `members.load_member`.
      options: data set, crops and batch size.
      saved: predictions to join later, checked against the images and classes before anything is run.
      with_names: whether to read the names of the images, which some sources must read all images for.
      finished: predictions of finished networks; new ones are added.
      preemption: as for `predict`.

    Returns:
      The predictions on process 0, None on the others.

    Raises:
      UserError, RunFailed, Preempted: as `evaluate`.
    """
    protocol = Protocol(options.crops, options.scales)
    members = [
        load_member(path, protocol, raw=options.raw, best=options.best, image_size=options.image_size)
        for path in checkpoints
    ]
    data = choose_data(members, options)
    source = open_images(data, members, options)
    matching = classes.match(
        [member.outputs for member in members],
        source.class_names,
        source=data.source,
        unknown=options.unknown_classes,
    )
    understood = describe_layout(data.source, source)
    source = relabel(source, matching.labels, matching.class_names)
    indices, images = _choose_images(source, data.source, matching, options)
    _check_saved(members[0], saved, matching, indices, data.source)
    loader = CropLoader(source, indices, protocol, rows_per_step(options.tta_batch, protocol), data)
    settings = [_settings(member, loader, matching) for member in members]
    hosts.check_agreement({key: [one[key] for one in settings] for key in settings[0]})
    for note in (understood, *matching.notes):
        hosts.say_on_process_zero(note)
    found = _run_unfinished(members, loader, matching, images, settings, finished, preemption)
    if jax.process_index():
        return None
    together = join(found)
    if not len(together.labels):
        raise UserError(f"no image is left to evaluate: {together.images.skipped} were skipped as broken.")
    names = [source.name(i) for i in together.files.astype(int).tolist()] if with_names else []
    return dataclasses.replace(together, files=np.array(names, str))


def _run_unfinished(
    members: Sequence[Member],
    loader: CropLoader,
    matching: Matching,
    images: Images,
    settings: Sequence[dict[str, Any]],
    finished: FinishedNetworks,
    preemption: Preemption,
) -> list[Predictions]:
    """Predictions of each member on process 0, with the images' numbers in place of their names."""
    found: list[Predictions] = []

    def read(settings: dict[str, Any]) -> int | None:
        before = finished.read(settings)
        if before:
            found.append(before)
            say(f"{before.models[0].name} is finished already")
        return 1 if before else None

    for number, member in enumerate(members):
        if hosts.process_zero_decides(functools.partial(read, settings[number])):
            continue
        result = predict(member, loader, number=number, count=len(members), preemption=preemption)
        if result:
            seen, labels, probabilities = result
            skipped = dataclasses.replace(images, skipped=len(loader.indices) - len(seen))
            files = loader.indices[seen].astype(str)
            order = matching.orders[number]
            probabilities = probabilities if order is None else probabilities[:, order]
            matched = "number" if matching.by_number[number] else "name"
            model = dataclasses.replace(member.description, matched_by=matched)
            found.append(Predictions(skipped, (model,), labels, files, probabilities[None], matching.class_names))
            finished.write(settings[number], found[-1])
    return found


def choose_data(members: Sequence[Member], options: EvaluationOptions) -> DataConfig:
    """Data to evaluate on: those of `options`, else those that all members were trained on, else UserError."""
    theirs = [member.data for member in members if member.data]
    own = theirs[0] if len(theirs) == len(members) else None
    images = {
        (
            one.source,
            one.data_dir,
            one.validation_images,
            one.validation_fraction,
            one.validation_split,
            one.train_split,
        )
        for one in theirs
    }
    if options.data is None and (own is None or len(images) > 1):
        raise UserError(
            "give --data: the checkpoints do not all name the images that they were trained on, or name different ones."
        )
    data = own or DataConfig()
    if options.data is not None:
        # `options` name all images of a source.
        data = dataclasses.replace(data, validation_images=None)
        if not same_source(options.data, data.source):
            data = dataclasses.replace(data, train_split=None, validation_split=None)
    changes: dict[str, Any] = {
        "source": options.data,
        "data_dir": options.data_dir,
        "on_error": options.on_error,
        "threads": options.threads,
    }
    return dataclasses.replace(data, **{k: v for k, v in changes.items() if v is not None})


def open_images(data: DataConfig, members: Sequence[Member], options: EvaluationOptions) -> Source:
    """Validation images of the networks' own data; of another set its validation split, or all where it has none."""
    # Not all of the networks' own, which they were trained on.
    own = options.data is None or any(same_source(options.data, m.data.source) for m in members if m.data)
    recorded = [m.held_out for m in members if m.held_out]
    # None of the networks may have been trained on them.
    held_out = frozenset.intersection(*recorded) if recorded else frozenset()
    if recorded and not held_out:
        raise UserError(
            f"{' and '.join(m.description.path for m in members if m.held_out)} have no validation image in common; "
            "evaluate each by itself."
        )
    try:
        source = build.source(Experiment(data=data), "validation" if own else "evaluation", held_out)
    except UserError as error:
        if options.data is not None:
            raise
        raise UserError(
            f"the images of {members[0].description.path} cannot be opened: {str(error).rstrip('.')}; if they are "
            "elsewhere now, give their place with --data."
        ) from error
    trained = next((m for m in members if not own and _is_trained_on(m, data, source)), None)
    if trained is None:
        if own and held_out and source.held_out and held_out.isdisjoint(source.held_out):
            hosts.say_on_process_zero(
                f"warning: none of the images that {members[0].description.path} held out has its name in "
                f"{data.source}; others are evaluated, which it may have been trained on."
            )
        return source
    hosts.say_on_process_zero(
        f"{data.source} has the classes and the number of images that {trained.description.path} was trained on; as "
        "for the run's own data, only the held-out part is evaluated."
    )
    return build.source(Experiment(data=data), "validation", held_out)


def _is_trained_on(member: Member, data: DataConfig, source: Source) -> bool:
    """Whether `source`, all images of `data`, seems to include the images that a run was trained on, moved since."""
    if member.data is None or member.training_images is None or member.training_images >= len(source):
        return False
    moved = dataclasses.replace(member.data, source=data.source, data_dir=data.data_dir)
    try:
        training = build.source(Experiment(data=moved), "train", member.held_out)
    except UserError:
        return False
    return (member.outputs.names, member.training_images) == (training.class_names, len(training))


def _choose_images(
    source: Source, name: str, matching: Matching, options: EvaluationOptions
) -> tuple[np.ndarray, Images]:
    """Numbers of the images to evaluate, int64 [images], and their description; UserError if none is left."""
    excluded_indices = unknown = np.arange(0)
    if options.exclude_list:
        excluded_indices = excluded(options.exclude_list, source, hosts.say_on_process_zero)
    if matching.unknown:
        unknown = np.setdiff1d(of_unknown_classes(source, hosts.say_on_process_zero), excluded_indices)
    indices = np.setdiff1d(np.arange(len(source)), np.concatenate([excluded_indices, unknown]))
    if not len(indices):
        left_out = f"{len(excluded_indices):,} are excluded and {len(unknown):,} of unknown classes"
        raise UserError(f"no image of {name} is left to evaluate: of {len(source):,}, {left_out}.")
    images = Images(
        name,
        len(source),
        len(excluded_indices),
        options.exclude_list,
        unknown=len(unknown),
        unknown_classes=matching.unknown,
    )
    return indices, images


def _check_saved(
    member: Member, saved: Sequence[Predictions], matching: Matching, indices: np.ndarray, name: str
) -> None:
    """Raises UserError if saved predictions differ in classes or in the number of images."""
    ours = dataclasses.replace(member.outputs, names=matching.class_names)
    for other in saved:
        if other.outputs.count != ours.count:
            raise UserError(
                f"the saved predictions of {other.outputs.path} are of {other.outputs.count} classes, the network of "
                f"{ours.path} has {ours.count}; they cannot be ensembled."
            )
        if other.class_names:
            classes.reorder(ours, other.outputs)
        images = len(other.labels) + other.images.skipped
        if images != len(indices):
            raise UserError(
                f"the saved predictions of {other.outputs.path} are of {images:,} images of {other.images.source}, "
                f"this evaluation is of {len(indices):,} of {name}; they cannot be ensembled."
            )


def _settings(member: Member, loader: CropLoader, matching: Matching) -> dict[str, Any]:
    """Settings that determine a network's predictions, as JSON values; the same on all processes and when resumed."""
    return {
        **dataclasses.asdict(member.description),
        "source": loader.data.source,
        "number of images": len(loader.source),
        "evaluated images": hashlib.sha256(loader.indices.astype(np.int64).tobytes()).hexdigest(),
        "classes": hashlib.sha256(repr((matching.class_names, matching.labels)).encode()).hexdigest(),
        "on_error": loader.data.on_error,
        "views at once (--tta-batch)": loader.rows,
        "number of processes": jax.process_count(),
    }
