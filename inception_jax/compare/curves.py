"""One run's validation errors, and which networks of arXiv 1602.07261 are set against each other."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from inception_jax.runs import Run

PAIRS = (("inception_v3", "inception_resnet_v1"), ("inception_v4", "inception_resnet_v2"))
"""(pure, residual) as the paper compares them; a name stands for its variants too, such as inception_resnet_v2_slim."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run's line: its validation records of the averaged and of the raw parameters, by rising step."""

    run: Run
    averaged: list[dict[str, Any]]
    raw: list[dict[str, Any]]

    @property
    def model(self) -> str:
        """The network's name in the table of models."""
        return self.run.experiment.model.name

    @property
    def residual(self) -> bool:
        """Whether the network adds its blocks' outputs to their inputs."""
        return self.model.startswith("inception_resnet")

    @property
    def network(self) -> str:
        """The paper's spelling of the network, and its depths where they were chosen: 'Inception-v4 (4/7/3)'."""
        depths = self.run.experiment.model.depths
        name = display_name(self.model)
        return f"{name} ({'/'.join(map(str, depths))})" if depths else name

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.run.experiment.seed

    @property
    def progress(self) -> str:
        """How far an unfinished run is, with a space before it; nothing for one that is done."""
        reached = self.run.metrics[-1]["step"] if self.run.metrics else 0
        return "" if self.run.finished else f" (step {reached} of {self.run.info.steps})"


def curves_of(runs: Sequence[Run]) -> list[Curve]:
    """One curve for each run, in the order given; without points where the run was never evaluated."""
    return [Curve(run, _evaluations(run, "averaged"), _evaluations(run, "raw")) for run in runs]


def display_name(model: str) -> str:
    """The paper's spelling: inception_resnet_v2_slim -> 'Inception-ResNet-v2 (slim)'."""
    network = next((name for pair in PAIRS for name in pair if model.startswith(name)), model)
    spelling = network.replace("inception", "Inception").replace("resnet", "ResNet").replace("_", "-")
    variant = model[len(network) :].strip("_").replace("_", " ")
    return f"{spelling} ({variant})" if variant else spelling


def pair_of(model: str) -> tuple[str, ...]:
    """The pair in `PAIRS` that a network belongs to, or the network alone."""
    return next((pair for pair in PAIRS if model.startswith(pair)), (model,))


def _evaluations(run: Run, parameters: str) -> list[dict[str, Any]]:
    # By step, because a run that resumed right after an evaluation may have made it twice.
    found = {m["step"]: m for m in run.metrics if m["split"] == "validation" and m["parameters"] == parameters}
    return [found[step] for step in sorted(found)]
