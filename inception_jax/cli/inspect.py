"""The verbs that look at images: data check."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated

import tyro

from inception_jax.cli.arguments import Directory, arg, no_more


@dataclasses.dataclass
class Check:
    """Read and decode every image of both splits; print counts, sizes, kinds of files and every broken image.

    Exits with 1 if an image is broken.
    """

    source: Annotated[tyro.conf.Positional[str], arg(metavar="SOURCE")]
    """digits, idx:PATH, folder:PATH or tfds:NAME."""
    data_dir: Directory = None
    """Where tensorflow-datasets keeps its prepared sets."""
    threads: Annotated[int | None, arg(metavar="INT")] = None
    """Images decoded at once; by default one for each core."""
    json: bool = False
    """Print one JSON object, with the images of every class."""

    def __call__(self, flags: Sequence[str]) -> int:
        """Checks and prints."""
        from inception_jax.data import check, cores

        no_more(flags, "data check")
        threads = cores.available_cores() if self.threads is None else self.threads
        report = check.check(self.source, data_dir=self.data_dir, threads=threads)
        print(json.dumps(dataclasses.asdict(report)) if self.json else check.table(report))
        return 1 if report.broken else 0
