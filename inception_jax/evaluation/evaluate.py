"""The paper's evaluation (section 4): one network or several, each shown one crop or many of every image.

Softmax is averaged over an image's crops, then over the networks; every image is counted once.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_jax.errors import UserError
from inception_jax.evaluation import predictions, report
from inception_jax.evaluation.finished_networks import FinishedNetworks
from inception_jax.evaluation.options import EvaluationOptions
from inception_jax.evaluation.predictions import SUFFIX
from inception_jax.evaluation.run_networks import run_networks
from inception_jax.system import hosts, workdir
from inception_jax.system.atomic import atomic_write, refuse_existing
from inception_jax.system.preemption import Preemption

_JSON, _MARKDOWN = "evaluation.json", "evaluation.md"


def evaluate(
    paths: Sequence[str],
    options: EvaluationOptions,
    *,
    save_predictions: str | None = None,
    out: str | None = None,
    overwrite: bool = False,
    preemption: Preemption | None = None,
) -> dict[str, Any] | None:
    """Evaluates networks, each alone and all together as an ensemble.

    Args:
      paths: runs (their newest checkpoint), RUN/checkpoints/STEP, imported or exported checkpoints; and files that
        `save_predictions` wrote, whose models are taken into the ensemble without being run.
      options: which images, and which crops of them.
      save_predictions: file (.npz) for all that the models say.
      out: directory for evaluation.json and evaluation.md and, until the end, for the networks that are done: the same
        call does not run them again.
      overwrite: replace the results and predictions of an earlier evaluation; one that was interrupted has none.
      preemption: with an open context and `out`, SIGTERM ends the evaluation after its step.

    Returns:
      What `report.summarize` gives; with several processes in the first alone, None in the others.

    Raises:
      UserError: the options do not fit together; there are results already; a checkpoint, a file or an image is
        broken.
      RunFailed: something could not be written.
      Preempted: SIGTERM came; the networks that are done are kept.
    """
    checkpoints = [path for path in paths if not path.endswith(SUFFIX)]
    _check(paths, checkpoints, options, save_predictions, out, overwrite)
    parts = [predictions.read(path) for path in paths if path.endswith(SUFFIX)]
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
        if parts and save_predictions and save_predictions not in paths:
            # Before it is known whether all are about the same images: what took long is not lost if not.
            predictions.write(save_predictions, computed)
        parts = [computed, *parts]
    together = predictions.join(parts)
    summary = report.summarize(together)
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
    """Raises UserError for invalid combinations, before hours are spent."""
    if not paths:
        raise UserError("evaluate needs a checkpoint or more, or files that --save-predictions wrote.")
    if not checkpoints and options != EvaluationOptions():
        raise UserError(f"from saved predictions alone no network is run: leave out {' '.join(options.flags())}.")
    if save_predictions and not save_predictions.endswith(SUFFIX):
        raise UserError(f"--save-predictions is {save_predictions}; the name must end in {SUFFIX}.")
    directories = [out] if out else []
    # Not Path(...).parent, which makes one slash of the two of a bucket.
    directories += [os.path.dirname(save_predictions) or "."] if save_predictions else []

    results = [os.path.join(out, name) for name in (_JSON, _MARKDOWN)] if out else []

    def check() -> None:
        for path in [*results, *([save_predictions] if save_predictions else [])]:
            refuse_existing(path, overwrite=overwrite)
        for directory in directories:
            workdir.check_writable(directory)

    hosts.on_process_zero(check) if checkpoints else check()


def _write(out: Path, summary: Mapping[str, Any]) -> None:
    contents = {_JSON: json.dumps(summary, indent=2) + "\n", _MARKDOWN: report.markdown(summary)}
    for name, text in contents.items():
        with atomic_write(out / name) as file:
            file.write(text.encode())
