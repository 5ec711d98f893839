"""Verb evaluate."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from inception_jax.cli.arguments import Processes, optional
from inception_jax.config import OnError


@dataclasses.dataclass(kw_only=True)
class Evaluate(Processes):
    """Measure top-1 and top-5 error of networks on validation images, each alone and all as an ensemble.

    Softmax is averaged over the crops, then over the networks. Classes are matched by name. Runs need no --data.
    """

    checkpoints: Annotated[tyro.conf.Positional[tuple[str, ...]], optional(metavar="CHECKPOINT|FILE.npz ...")]
    """Runs, imported or exported checkpoints, saved predictions."""
    data: Annotated[str | None, optional(metavar="SOURCE")] = None
    """digits, idx:PATH, folder:PATH, csv:FILE or tfds:NAME."""
    data_dir: Annotated[str | None, optional(metavar="DIR")] = None
    """Directory of tensorflow-datasets' prepared data sets."""
    crops: Annotated[Literal[1, 10, 12, 144], optional(metavar="1|10|12|144")] = 1
    """Crops per image; 1 unless given."""
    scales: Annotated[tuple[int, ...], optional(metavar="INT ...")] = ()
    """Shorter sides for an input of 224 in place of the paper's."""
    exclude_list: Annotated[str | None, optional(metavar="FILE")] = None
    """Numbers of images to exclude, such as ILSVRC's blacklist."""
    classes: Annotated[Literal["all", "present"], optional(metavar="all|present")] = "all"
    """Classes of the softmax: the networks' or the images'."""
    unknown_classes: Annotated[Literal["refuse", "skip"], optional(metavar="refuse|skip")] = "refuse"
    """Handling of images of classes unknown to the networks."""
    image_size: Annotated[int | None, optional(metavar="PIXELS")] = None
    """Side of the input in place of the networks' own."""
    raw: Annotated[bool, optional()] = False
    """Use a run's raw parameters rather than the averaged ones."""
    best: Annotated[bool, optional()] = False
    """Use a run's best checkpoint rather than its newest."""
    on_error: Annotated[OnError | None, optional(metavar="stop|skip")] = None
    """Whether a broken image stops the evaluation or is skipped."""
    tta_batch: Annotated[int | None, optional(metavar="N")] = None
    """Crops per step over all devices."""
    threads: Annotated[int | None, optional(metavar="N")] = None
    """Number of threads that decode and crop."""
    save_predictions: Annotated[str | None, optional(metavar="FILE.npz")] = None
    """Save each network's probabilities of each image."""
    out: Annotated[str | None, optional(metavar="DIR")] = None
    """Directory of evaluation.json and .md; resumes there."""
    overwrite: Annotated[bool, optional()] = False
    """Replace results and predictions that exist."""
    json: Annotated[bool, optional()] = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax import evaluation
        from inception_jax.evaluation import report
        from inception_jax.system.preemption import Preemption

        options = evaluation.EvaluationOptions(
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(evaluation.EvaluationOptions)}
        )
        self.join()
        preemption = Preemption()
        # Without --out nothing is kept, so SIGTERM need not wait for a step.
        with preemption if self.out else contextlib.nullcontext():
            summary = evaluation.evaluate(
                self.checkpoints,
                options,
                classes=self.classes,
                save_predictions=self.save_predictions,
                out=self.out,
                overwrite=self.overwrite,
                preemption=preemption,
            )
        if summary:
            print(json.dumps(summary) if self.json else report.markdown(summary), end="\n" if self.json else "")
        return 0
