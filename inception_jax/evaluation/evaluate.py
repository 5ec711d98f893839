"""Evaluation of networks, each alone and all as an ensemble, and its report.

Softmax is averaged over an image's crops, then over the networks; every image is counted once.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from inception_jax import runs
from inception_jax.errors import UserError
from inception_jax.evaluation import predictions, report
from inception_jax.evaluation.classes import SoftmaxOver, UnknownClasses
from inception_jax.evaluation.finished_networks import FinishedNetworks
from inception_jax.evaluation.predictions import SUFFIX, Predictions
from inception_jax.evaluation.run_networks import EvaluationOptions, run_networks
from inception_jax.system import hosts, workdir
from inception_jax.system.atomic import atomic_write, refuse_existing
from inception_jax.system.preemption import Preemption
from inception_jax.system.progress import say

_DEFAULT_OPTIONS = EvaluationOptions()

_JSON, _MARKDOWN = "evaluation.json", "evaluation.md"


def evaluate(
    paths: Sequence[str | Path],
    options: EvaluationOptions = _DEFAULT_OPTIONS,
    *,
    classes: SoftmaxOver = "all",
    save_predictions: str | None = None,
    out: str | None = None,
    overwrite: bool = False,
    preemption: Preemption | None = None,
) -> dict[str, Any] | None:
    """Evaluates networks, each alone and all together as an ensemble.

    Classes of networks, images and saved predictions are matched by name, or by number where one side has no names.

    Args:
      paths: runs (their newest checkpoint), RUN/checkpoints/STEP, imported or exported checkpoints; and files that
        `save_predictions` wrote, whose models join the ensemble without being run.
      options: data set, crops and batch size.
      classes: "all", or "present" to take the softmax over those classes only that the evaluated images have. It is
        taken of the mean over the crops.
      save_predictions: file (.npz) for the probabilities of all models.
      out: directory of evaluation.json and evaluation.md. Until the end it also holds the predictions of finished
        networks, so that a repeated call resumes after them.
      overwrite: replace the results and predictions of an earlier evaluation; an interrupted one has none.
      preemption: with an open context and `out`, SIGTERM ends the evaluation after the current step.

    Returns:
      The result of `report.summarize` on process 0, None on the others.

    Raises:
      UserError: the options contradict each other, the classes of networks and images do not match, results already
        exist, or a checkpoint, a file or an image is broken.
      RunFailed: a file could not be written.
      Preempted: SIGTERM ended the evaluation; finished networks are kept.
    """
    choices = {"classes": (classes, SoftmaxOver), "unknown_classes": (options.unknown_classes, UnknownClasses)}
    for name, (value, kind) in choices.items():
        if value not in get_args(kind):
            raise UserError(f"{name} is {value!r}; it must be {' or '.join(map(repr, get_args(kind)))}.")
    if isinstance(paths, str | Path):
        raise UserError(f"evaluate takes a list of paths, not one path: give [{str(paths)!r}].")
    named = [str(path) for path in paths]
    checkpoints = [path for path in named if not path.endswith(SUFFIX)]
    _check(named, checkpoints, options, save_predictions, out, overwrite)
    parts = [predictions.read(path) for path in named if path.endswith(SUFFIX)]
    finished = FinishedNetworks(out)
    if checkpoints:
        with_names = bool(parts or save_predictions)
        computed = run_networks(
            checkpoints,
            options,
            parts,
            with_names=with_names,
            finished=finished,
            preemption=preemption or Preemption(),
        )
        if computed is None:
            return None
        if parts and save_predictions and save_predictions not in named:
            # Before `join` can fail, so that the computed predictions are not lost.
            predictions.write(save_predictions, computed)
        parts = [computed, *parts]
    _say_which_have_no_names(parts)
    together = predictions.join(parts)
    summary = report.summarize(together, classes)
    if save_predictions:
        predictions.write(save_predictions, together)
    if out:
        _write(Path(out), summary)
    finished.clear()
    return summary


def _check(
    paths: Sequence[str],
    checkpoints: Sequence[str],
    options: EvaluationOptions,
    save_predictions: str | None,
    out: str | None,
    overwrite: bool,
) -> None:
    """Raises UserError for invalid combinations, before hours of computation."""
    if not paths:
        raise UserError("evaluate needs at least one checkpoint, or a file written by --save-predictions.")
    if not checkpoints and options != EvaluationOptions():
        raise UserError(f"saved predictions alone run no network: leave out {' '.join(options.flags())}.")
    if save_predictions and not save_predictions.endswith(SUFFIX):
        raise UserError(f"--save-predictions is {save_predictions}; the name must end in {SUFFIX}.")
    directories = [out] if out else []
    # Not Path(...).parent, which would merge the two slashes of a bucket's URL.
    directories += [os.path.dirname(save_predictions) or "."] if save_predictions else []

    sources = [options.data] if options.data else [source for path in checkpoints for source in runs.trained_on(path)]
    results = [os.path.join(out, name) for name in (_JSON, _MARKDOWN)] if out else []

    def check() -> None:
        for path in [*results, *([save_predictions] if save_predictions else [])]:
            refuse_existing(path, overwrite=overwrite)
        for directory in directories:
            workdir.check_place(directory, *sources)
        for directory in directories:
            workdir.check_writable(directory)

    hosts.on_process_zero(check) if checkpoints else check()


def _say_which_have_no_names(parts: Sequence[Predictions]) -> None:
    without = [part.outputs.path for part in parts if not part.class_names]
    if 0 < len(without) < len(parts):
        say(f"{', '.join(without)}: saved without the names of the classes, which are taken to be in the same order")


def _write(out: Path, summary: Mapping[str, Any]) -> None:
    contents = {_JSON: json.dumps(summary, indent=2) + "\n", _MARKDOWN: report.markdown(summary)}
    for name, text in contents.items():
        with atomic_write(out / name) as file:
            file.write(text.encode(errors="backslashreplace"))
