"""The verb train."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from inception_jax.cli import experiment_files
from inception_jax.cli.arguments import PROG, Processes, arg


@dataclasses.dataclass(kw_only=True)
class Train(Processes):
    """Train one run of an experiment, resuming from its newest checkpoint.

    Any field of the experiment can be set, as in --seed 3; inception-jax train EXPERIMENT --help lists them.
    """

    experiment: Annotated[tyro.conf.Positional[str], arg(metavar="EXPERIMENT")]
    """Name of a packaged experiment (see inception-jax experiments), or a Python file with runs()."""
    workdir: Annotated[str, arg(metavar="DIR")]
    """Directory of the run; an existing run is resumed."""
    run: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the run; required if the experiment has several."""
    init_from: Annotated[str | None, arg(metavar="RUN")] = None
    """Run or imported checkpoint to initialise from; short for --train.init-from."""
    strict: bool = False
    """Stop at a broken newest checkpoint rather than resume from an older one."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax import train
        from inception_jax.system import workdir
        from inception_jax.system.preemption import Preemption

        runs = experiment_files.load_runs(self.experiment)
        name, recipe = experiment_files.choose_run(runs, self.run, self.experiment)
        flags = [*flags, *(["--train.init-from", self.init_from] if self.init_from else [])]
        chosen = experiment_files.override(recipe, flags, prog=f"{PROG} train {self.experiment}")
        self.join()
        workdir.check_place(self.workdir, chosen.data.source)
        workdir.check_writable(self.workdir)
        train.enable_compilation_cache(Path(self.workdir).parent)
        with Preemption() as preemption:
            train.fit(chosen, self.workdir, name=name, preemption=preemption, strict=self.strict, recipe=recipe)
        return 0
