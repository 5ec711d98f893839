"""The verb benchmark startup."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated

from inception_jax.cli.arguments import arg, no_more
from inception_jax.config import DataConfig, Experiment, ModelConfig, TrainConfig


@dataclasses.dataclass
class MeasureStartup:
    """Measure the time from a train command to its first finished step, without and with a compilation cache."""

    model: Annotated[str, arg(metavar="MODEL")] = ModelConfig.name
    """inception_v3, inception_v4, inception_resnet_v1, inception_resnet_v2, ..."""
    image_size: Annotated[int, arg(metavar="PIXELS")] = DataConfig.image_size
    """Side of the input; 75 or more."""
    batch_size: int = 4
    """Images of the step."""
    repeats: int = 3
    """Pairs of starts, one without and one with a cache; the medians count."""
    json: bool = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        """Measures and prints."""
        from inception_jax.benchmark import startup

        no_more(flags, "benchmark startup")
        experiment = Experiment(
            model=ModelConfig(name=self.model),
            data=DataConfig(source="digits", image_size=self.image_size),
            train=TrainConfig(batch_size=self.batch_size),
        )
        report = startup.benchmark(experiment, repeats=self.repeats)
        print(json.dumps(dataclasses.asdict(report)) if self.json else startup.table(report))
        return 0
