"""Command `compare`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from inception_jax.cli import experiment_files, packaged
from inception_jax.cli.arguments import PROG, Directory, Processes, arg
from inception_jax.errors import UserError


@dataclasses.dataclass(kw_only=True)
class Compare(Processes):
    """Train the runs of an experiment, or take existing runs, and write curves and tables.

    compare EXPERIMENT --workdir DIR resumes unfinished runs; compare RUN RUN ... --out DIR only draws.

    Runs that differ only in their seed are drawn as one line.
    """

    what: Annotated[tyro.conf.Positional[tuple[str, ...]], arg(metavar="EXPERIMENT|RUN ...")]
    """An experiment, as for train, or directories of runs. Experiment fields set by flags apply to all its runs."""
    workdir: Directory = None
    """Directory for an experiment's runs, one folder each, and for figures and tables."""
    out: Directory = None
    """Directory for figures and tables; for an experiment, by default its workdir."""
    metrics: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Also draw these training metrics over steps, such as gradient_norm; NAME/ means all metrics under that name."""
    strict: bool = False
    """Stop at a corrupt newest checkpoint instead of resuming from an older one."""
    overwrite: bool = False
    """Replace figures and tables of other runs."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax import compare, runs
        from inception_jax.system import workdir

        failed: list[str] = []
        if not self.what:
            raise UserError("compare needs an experiment or directories of runs.")
        if len(self.what) == 1 and self._is_experiment(self.what[0]):
            directories, failed = self._train(flags)
            if not self.first():
                return 1 if failed else 0
        else:
            directories = [Path(directory) for directory in self.what]
            if flags or self.workdir:
                raise UserError(f"existing runs are only drawn; omit {' '.join(flags) or '--workdir'}.")
            if not self.out:
                raise UserError("give a directory for figures and tables with --out.")
            workdir.check_place(self.out, *(source for run in directories for source in runs.trained_on(run)))
            compare.check_out(directories, self.metrics, self.out, overwrite=self.overwrite)
            workdir.check_writable(self.out)
        out = self.out or self.workdir
        assert out
        for message in failed:
            print(f"{PROG}: {message}", file=sys.stderr)
        try:
            for path in [*compare.compare(directories, out), *compare.draw_metrics(directories, self.metrics, out)]:
                print(path)
        except UserError as error:
            if not failed:
                raise
            # There is nothing to draw because runs failed, which decides the exit code.
            print(f"{PROG}: {error}", file=sys.stderr)
        return 1 if failed else 0

    def _is_experiment(self, what: str) -> bool:
        if Path(what).is_dir():
            # A run takes no --workdir, so `compare digits --workdir digits` resumes the experiment.
            return bool(self.workdir) and what in packaged.files()
        return bool(self.workdir) or what.endswith(".py") or what in packaged.files()

    def _train(self, flags: Sequence[str]) -> tuple[list[Path], list[str]]:
        from inception_jax import compare, train
        from inception_jax.system import workdir
        from inception_jax.system.preemption import Preemption

        if not self.workdir:
            raise UserError(f"give a directory for the runs of {self.what[0]} with --workdir.")
        prog = f"{PROG} compare {self.what[0]}"
        recipes = experiment_files.load_runs(self.what[0])
        runs = {name: experiment_files.override(recipe, flags, prog=prog) for name, recipe in recipes.items()}
        planned = [Path(self.workdir, name) for name in runs]
        compare.check_out(planned, self.metrics, self.out or self.workdir, overwrite=self.overwrite)
        self.join()
        directories = [directory for directory in (self.workdir, self.out) if directory]
        for directory in directories:
            workdir.check_place(directory, *(run.data.source for run in runs.values()))
        for directory in directories:
            workdir.check_writable(directory)
        train.enable_compilation_cache(Path(self.workdir))
        with Preemption() as preemption:
            return train.fit_all(runs, self.workdir, preemption=preemption, strict=self.strict, recipes=recipes)
