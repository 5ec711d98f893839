"""The verb experiments."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from inception_jax.cli import packaged
from inception_jax.cli.arguments import PROG, arg


@dataclasses.dataclass
class Experiments:
    """List the packaged experiments, or print one as a starting point."""

    name: Annotated[tyro.conf.Positional[str | None], arg(metavar="NAME")] = None
    """Experiment to print, as in inception-jax experiments digits > mine.py."""

    def __call__(self, flags: Sequence[str]) -> int:
        if self.name is None:
            found = packaged.files()
            width = max(map(len, found), default=0)
            print("\n".join(f"{name:<{width}}  {packaged.first_line(path)}" for name, path in found.items()))
            return 0
        path = packaged.file(self.name)
        print(path.read_text(encoding="utf-8"), end="")
        # Not on standard output, so that the copy equals the packaged file.
        if others := packaged.neighbours(path):
            print(f"{PROG}: a copy in any directory can import the packaged {' and '.join(others)}.", file=sys.stderr)
        return 0
