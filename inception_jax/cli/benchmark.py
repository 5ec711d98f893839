"""The verbs that measure: benchmark data."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated

import tyro

from inception_jax.cli.arguments import Directory, arg, no_more
from inception_jax.config import DataConfig


@dataclasses.dataclass
class BenchmarkData:
    """Measure how fast images become training batches, as a whole and stage by stage.

    Without SOURCE it measures photographs of ImageNet's size, which it makes in a temporary folder.
    """

    source: Annotated[tyro.conf.Positional[str | None], arg(metavar="SOURCE")] = None
    """digits, idx:PATH, folder:PATH or tfds:NAME; of its training images."""
    image_size: Annotated[int, arg(metavar="PIXELS")] = DataConfig.image_size
    """Side of a crop; 75 or more."""
    batch_size: int = 32
    """Images of a batch."""
    threads: Annotated[int | None, arg(metavar="INT")] = None
    """Threads that read, decode and augment; by default one for each core."""
    seconds: float = 5.0
    """Of each repeat, and of each stage."""
    repeats: int = 3
    """Of the whole pipeline; the median counts."""
    data_dir: Directory = None
    """Where tensorflow-datasets keeps its prepared sets."""
    json: bool = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        """Measures and prints."""
        from inception_jax.benchmark import data

        no_more(flags, "benchmark data")
        report = data.benchmark(
            self.source,
            image_size=self.image_size,
            batch_size=self.batch_size,
            threads=self.threads,
            seconds=self.seconds,
            repeats=self.repeats,
            data_dir=self.data_dir,
        )
        print(json.dumps(dataclasses.asdict(report)) if self.json else data.table(report))
        return 0
