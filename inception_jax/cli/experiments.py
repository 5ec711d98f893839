"""The verb experiments."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from inception_jax.cli import packaged
from inception_jax.cli.arguments import PROG, arg, refuse_extra


@dataclasses.dataclass
class Experiments:
    """List the packaged experiments, or print one to start from."""

    name: Annotated[tyro.conf.Positional[str | None], arg(metavar="NAME")] = None
    """Experiment to print, as in experiments digits > mine.py."""

    def __call__(self, flags: Sequence[str]) -> int:
        refuse_extra(flags, "experiments")
        if self.name is None:
            found = packaged.files()
            width = max(map(len, found), default=0)
            print("\n".join(f"{name:<{width}}  {packaged.first_line(path)}" for name, path in found.items()))
            return 0
        path = packaged.file(self.name)
        print(path.read_text(encoding="utf-8"), end="")
        # Not on standard output: the copy is to be the packaged file to the byte.
        if others := packaged.neighbours(path):
            print(f"{PROG}: a copy, wherever it lies, finds the packaged {' and '.join(others)}.", file=sys.stderr)
        return 0
