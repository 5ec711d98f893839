"""The paper's evaluation (section 4): one network or several, each shown one crop or many of every image.

Softmax is averaged over an image's crops, then over the networks; every image is counted once.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_jax import hosts, whole, workdir
from inception_jax.errors import UserError
from inception_jax.evaluation import predictions, report, unfinished
from inception_jax.evaluation.asked import Asked
from inception_jax.evaluation.predictions import SUFFIX
from inception_jax.evaluation.running import run
from inception_jax.preemption import Preemption

__all__ = ["Asked", "evaluate"]


def evaluate(
    paths: Sequence[str],
    asked: Asked,
    *,
    save_predictions: str | None = None,
    out: str | None = None,
    preemption: Preemption | None = None,
) -> dict[str, Any] | None:
    """Evaluates networks, each alone and all together as an ensemble.

    Args:
      paths: runs (their newest checkpoint), RUN/checkpoints/STEP, imported or exported checkpoints; and files that
        `save_predictions` wrote, whose models are taken into the ensemble without being run.
      asked: which images, and which crops of them.
      save_predictions: file (.npz) for all that the models say.
      out: directory for evaluation.json and evaluation.md and, until the end, for what is done: the same call goes on.
      preemption: with an open context and `out`, SIGTERM ends the evaluation after its step.

    Returns:
      What `report.facts` gives; where networks are run by several processes, in the first alone, None in the others.

    Raises:
      UserError: what is asked for does not fit together; a checkpoint, a file or an image is broken.
      RunFailed: something could not be written.
      Preempted: SIGTERM came; what was done is kept.
    """
    checkpoints = [path for path in paths if not path.endswith(SUFFIX)]
    _check(paths, checkpoints, asked, save_predictions, out)
    parts = [predictions.read(path) for path in paths if path.endswith(SUFFIX)]
    if checkpoints:
        named = bool(parts or save_predictions)
        computed = run(checkpoints, asked, parts, named=named, out=out, preemption=preemption or Preemption())
        if computed is None:
            return None
        if parts and save_predictions and save_predictions not in paths:
            # Before it is known whether all are about the same images: what took long is not lost if not.
            predictions.write(save_predictions, computed)
        parts = [computed, *parts]
    together = predictions.join(parts)
    found = report.facts(together)
    if save_predictions:
        predictions.write(save_predictions, together)
    if out:
        _write(Path(out), found)
        if checkpoints:  # Without, what is kept there is another evaluation's.
            unfinished.clear(Path(out))
    return found


def _check(
    paths: Sequence[str], checkpoints: Sequence[str], asked: Asked, save_predictions: str | None, out: str | None
) -> None:
    """Raises UserError for what cannot be, before hours are spent."""
    if not paths:
        raise UserError("evaluate needs a checkpoint or more, or files that --save-predictions wrote.")
    if not checkpoints and asked != Asked():
        raise UserError(f"from saved predictions alone no network is run: leave out {' '.join(asked.flags())}.")
    if save_predictions and not save_predictions.endswith(SUFFIX):
        raise UserError(f"--save-predictions is {save_predictions}; the name must end in {SUFFIX}.")
    directories = [out] if out else []
    # Not Path(...).parent, which makes one slash of the two of a bucket.
    directories += [os.path.dirname(save_predictions) or "."] if save_predictions else []

    def check() -> None:
        for directory in directories:
            workdir.check_writable(directory)

    hosts.first_alone(check) if checkpoints else check()


def _write(out: Path, found: Mapping[str, Any]) -> None:
    contents = {"evaluation.json": json.dumps(found, indent=2) + "\n", "evaluation.md": report.markdown(found)}
    for name, text in contents.items():
        with whole.writing(out / name) as file:
            file.write(text.encode())
