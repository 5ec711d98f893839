"""The verb evaluate."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from inception_jax.cli.arguments import Processes, arg, refuse_extra
from inception_jax.config import OnError

# What is not given needs no default in the help.
optional = functools.partial(arg, help_behavior_hint="")


@dataclasses.dataclass(kw_only=True)
class Evaluate(Processes):
    """Top-1 and top-5 error of networks on validation images, of each alone and of all as an ensemble.

    Softmax is averaged over the crops of an image, then over the networks. Runs know their images without --data.
    """

    checkpoints: Annotated[tyro.conf.Positional[tuple[str, ...]], optional(metavar="CHECKPOINT|FILE.npz ...")]
    """Runs, imported or exported checkpoints, saved predictions."""
    data: Annotated[str | None, optional(metavar="SOURCE")] = None
    """digits, idx:PATH, folder:PATH or tfds:NAME."""
    data_dir: Annotated[str | None, optional(metavar="DIR")] = None
    """Directory of tensorflow-datasets' prepared data sets."""
    crops: Annotated[Literal[1, 10, 12, 144], optional(metavar="1|10|12|144")] = 1
    """Crops per image; 1 unless given."""
    scales: Annotated[tuple[int, ...], optional(metavar="INT ...")] = ()
    """Shorter sides for an input of 224; else the paper's."""
    exclude_list: Annotated[str | None, optional(metavar="FILE")] = None
    """Numbers of images to exclude: ILSVRC's blacklist."""
    image_size: Annotated[int | None, optional(metavar="PIXELS")] = None
    """Side of the input in place of the networks' own."""
    raw: Annotated[bool, optional()] = False
    """Use a run's raw parameters, not the averaged ones."""
    on_error: Annotated[OnError | None, optional(metavar="stop|skip")] = None
    """Whether a broken image stops the evaluation or is skipped."""
    tta_batch: Annotated[int | None, optional(metavar="N")] = None
    """Crops per step over all devices."""
    threads: Annotated[int | None, optional(metavar="N")] = None
    """Threads that decode and crop."""
    save_predictions: Annotated[str | None, optional(metavar="FILE.npz")] = None
    """Save each network's probabilities of each image."""
    out: Annotated[str | None, optional(metavar="DIR")] = None
    """Directory of evaluation.json and .md, and for resuming."""
    overwrite: Annotated[bool, optional()] = False
    """Replace results and predictions that exist."""
    json: Annotated[bool, optional()] = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax import evaluation
        from inception_jax.evaluation import report
        from inception_jax.system.preemption import Preemption

        refuse_extra(flags, "evaluate")
        options = evaluation.EvaluationOptions(
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(evaluation.EvaluationOptions)}
        )
        self.join()
        preemption = Preemption()
        # Where nothing is kept, SIGTERM has nothing to wait for.
        with preemption if self.out else contextlib.nullcontext():
            summary = evaluation.evaluate(
                self.checkpoints,
                options,
                save_predictions=self.save_predictions,
                out=self.out,
                overwrite=self.overwrite,
                preemption=preemption,
            )
        if summary:
            print(json.dumps(summary) if self.json else report.markdown(summary), end="\n" if self.json else "")
        return 0
