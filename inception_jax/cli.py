"""The command line: one class per verb, its fields the arguments; no logic of its own, nothing slow imported early."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from inception_jax import experiment
from inception_jax.errors import RunFailed, UserError

PROG = "inception-jax"

arg = tyro.conf.arg
Directory = Annotated[str | None, arg(metavar="DIR")]


@dataclasses.dataclass
class Train:
    """Train one run of an experiment, going on from its newest checkpoint.

    Any field of the experiment can be set, as in --optim.learning-rate 0.03.

    inception-jax train EXPERIMENT.py --help lists the fields with their values.
    """

    experiment: Annotated[tyro.conf.Positional[str], arg(metavar="EXPERIMENT.py")]
    """File with runs(); see experiments/."""
    workdir: Annotated[str, arg(metavar="DIR")]
    """Directory of the run; what it holds is continued."""
    run: Annotated[str | None, arg(metavar="NAME")] = None
    """Which run of the file; needed where it has several."""
    distributed: bool = False
    """Join the other hosts of a pod first (Cloud TPU, Slurm, GKE)."""

    def __call__(self, flags: Sequence[str]) -> int:
        """Trains."""
        from inception_jax import train

        runs = experiment.load_runs(self.experiment)
        name, chosen = experiment.choose_run(runs, self.run, self.experiment)
        chosen = experiment.override(chosen, flags, prog=f"{PROG} train {self.experiment}")
        if self.distributed:
            train.join_hosts()
        train.keep_compiled(Path(self.workdir).parent)
        train.fit(chosen, self.workdir, name=name)
        return 0


@dataclasses.dataclass
class Compare:
    """Train the runs of an experiment, or take runs that exist, and draw curves and tables.

    compare EXPERIMENT.py --workdir DIR: skips runs that are done, resumes others.

    compare RUN RUN ... --out DIR: only draws.

    Fields set as for train hold for all runs of the experiment.
    """

    what: Annotated[tyro.conf.Positional[tuple[str, ...]], arg(metavar="EXPERIMENT.py|RUN ...")]
    """One experiment file, or the directories of runs."""
    workdir: Directory = None
    """With an experiment: a directory for each run in it, pictures and tables beside."""
    out: Directory = None
    """Where pictures and tables go; with an experiment, its workdir unless given."""

    def __call__(self, flags: Sequence[str]) -> int:
        """Trains where need be, and draws."""
        from inception_jax import compare

        failed: list[str] = []
        if not self.what:
            raise UserError("compare needs an experiment file, or the directories of runs.")
        if len(self.what) == 1 and self.what[0].endswith(".py"):
            directories, failed = self._train(flags)
        else:
            directories = [Path(directory) for directory in self.what]
            if flags or self.workdir:
                raise UserError(f"runs that exist are only drawn: leave out {' '.join(flags) or '--workdir'}.")
        out = self.out or self.workdir
        if not out:
            raise UserError("say with --out where the pictures and tables shall go.")
        for path in compare.compare(directories, out):
            print(path)
        for message in failed:
            print(f"{PROG}: {message}", file=sys.stderr)
        return 1 if failed else 0

    def _train(self, flags: Sequence[str]) -> tuple[list[Path], list[str]]:
        from inception_jax import train

        if not self.workdir:
            raise UserError(f"say with --workdir where the runs of {self.what[0]} shall go.")
        prog = f"{PROG} compare {self.what[0]}"
        runs = {
            name: experiment.override(e, flags, prog=prog) for name, e in experiment.load_runs(self.what[0]).items()
        }
        train.keep_compiled(Path(self.workdir))
        return train.fit_all(runs, self.workdir)


@dataclasses.dataclass
class Evaluate:
    """Evaluate a checkpoint on validation images: loss, top-1 and top-5 error.

    Both the averaged and the raw parameters are evaluated, each image counted once.
    """

    checkpoint: Annotated[tyro.conf.Positional[str], arg(metavar="RUN")]
    """A run's directory (its newest checkpoint) or RUN/checkpoints/STEP."""
    data: Annotated[str | None, arg(metavar="SOURCE")] = None
    """Other images than the run's: digits, idx:PATH, folder:PATH or tfds:NAME."""
    data_dir: Directory = None
    """Where tensorflow-datasets keeps its prepared sets."""
    image_size: Annotated[int | None, arg(metavar="PIXELS")] = None
    """Other size than the run's."""
    batch_size: Annotated[int | None, arg(metavar="INT")] = None
    """Images per step over all devices."""
    json: bool = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        """Evaluates and prints."""
        from inception_jax import evaluate

        _no_more(flags, "evaluate")
        asked = {
            "source": self.data,
            "data_dir": self.data_dir,
            "image_size": self.image_size,
            "batch_size": self.batch_size,
        }
        results = evaluate.evaluate_checkpoint(self.checkpoint, {k: v for k, v in asked.items() if v is not None})
        print(json.dumps(results) if self.json else evaluate.table(results))
        return 0


@dataclasses.dataclass
class Summary:
    """Print a network's stages with output shapes, parameters and multiply-adds."""

    model: Annotated[tyro.conf.Positional[str], arg(metavar="MODEL")]
    """inception_v3, inception_v4, inception_resnet_v1, inception_resnet_v2, ..."""
    image_size: int = 299
    """Side of the input in pixels; 75 or more."""
    num_classes: int = 1000
    """Of the classifier; 0 for none."""
    width: float = 1.0
    """Factor on the features of every convolution."""
    depths: Annotated[tuple[int, int, int] | None, arg(metavar="A B C")] = None
    """Blocks at the 35, 17 and 8 grids."""
    json: bool = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        """Prints."""
        from inception_jax.models import create_model, summary

        _no_more(flags, "summary")
        network = create_model(self.model, num_classes=self.num_classes, width=self.width, depths=self.depths)
        rows = summary.summarize(network, self.image_size)
        print(summary.to_json(self.model, self.image_size, rows) if self.json else summary.table(rows))
        return 0


VERBS = ("train", "compare", "evaluate", "summary")
Verb = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Summary, tyro.conf.subcommand("summary")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns 0, 1 for a run that failed, 2 for a mistake in what was asked, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in VERBS:
            raise UserError(f"there is no verb {arguments[0]!r}; there are {', '.join(VERBS)}.")
        if arguments[:1] == ["train"] and "--help" in arguments[2:] and not arguments[1].startswith("-"):
            return _fields(arguments[1])
        verb, flags = experiment.parse(
            Verb,
            arguments or ["--help"],
            prog=PROG,
            description=DESCRIPTION,
            return_unknown_args=True,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        return verb(flags)
    except UserError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{PROG}: interrupted; the same command goes on from the newest checkpoint.", file=sys.stderr)
        return 130


DESCRIPTION = "Inception-v3, Inception-v4 and the Inception-ResNets of arXiv 1602.07261 in JAX and Flax."


def _fields(path: str) -> int:
    name, first = next(iter(experiment.load_runs(path).items()))
    experiment.override(first, ["--help"], prog=f"{PROG} train {path}")
    return 0


def _no_more(flags: Sequence[str], verb: str) -> Any:
    if flags:
        raise UserError(f"{verb} does not take {' '.join(flags)}; see {PROG} {verb} --help.")
