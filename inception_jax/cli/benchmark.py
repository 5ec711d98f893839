"""The verbs that measure: benchmark train, infer, data, save, startup."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from inception_jax.cli import experiment_files
from inception_jax.cli.arguments import PROG, Directory, arg, refuse_extra
from inception_jax.config import DataConfig, Experiment, ModelConfig, TrainConfig


@dataclasses.dataclass
class MeasureStartup:
    """Measure the time from a train command to its first finished step, without and with a compilation cache."""

    model: Annotated[str, arg(metavar="MODEL")] = ModelConfig.name
    """inception_v3, inception_v4, inception_resnet_v1, inception_resnet_v2, ..."""
    image_size: Annotated[int, arg(metavar="PIXELS")] = DataConfig.image_size
    """Side of the input; 75 or more."""
    batch_size: int = 4
    """Images per step."""
    repeats: int = 3
    """Number of pairs of starts, one without and one with a cache; the medians count."""
    json: bool = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax.benchmark import startup

        refuse_extra(flags, "benchmark startup")
        experiment = Experiment(
            model=ModelConfig(name=self.model),
            data=DataConfig(source="digits", image_size=self.image_size),
            train=TrainConfig(batch_size=self.batch_size),
        )
        report = startup.benchmark(experiment, repeats=self.repeats)
        print(json.dumps(dataclasses.asdict(report)) if self.json else startup.table(report))
        return 0


@dataclasses.dataclass(kw_only=True)
class MeasureNetwork:
    """Measure a network."""

    mode: ClassVar[Literal["train", "infer"]]

    model: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = (ModelConfig.name,)
    """inception_v3, inception_v4, inception_resnet_v1, inception_resnet_v2, ...; several are measured one by one."""
    batch_size: Annotated[tuple[int, ...], arg(metavar="INT ...")] = (16,)
    """Images per step over all devices; several sizes are measured one by one."""
    image_size: Annotated[tuple[int, ...], arg(metavar="PIXELS ...")] = (DataConfig.image_size,)
    """Side of an image, 75 or more; several sizes are measured one by one."""
    dtype: Literal["float32", "bfloat16"] = ModelConfig.dtype
    """Dtype of the convolutions."""
    seconds: float = 5.0
    """Duration of each repeat."""
    repeats: int = 3
    """Number of repeats; the median counts."""
    profile: Directory = None
    """Also write a profile of ten steps for XProf there (pip install xprof; xprof server --logdir DIR/NAME)."""
    json: bool = False
    """Print one JSON object, or one on each line where several are measured."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax import steps
        from inception_jax.benchmark import network, speed
        from inception_jax.system import workdir

        refuse_extra(flags, f"benchmark {self.mode}")
        steps.use_synchronous_cpu_dispatch()
        # A mistake in the last of them is not to cost the measuring of the others.
        recipes = [
            network.recipe(model, batch_size=batch_size, image_size=image_size, dtype=self.dtype)
            for model, image_size, batch_size in itertools.product(self.model, self.image_size, self.batch_size)
        ]
        if self.profile is not None:
            workdir.check_writable(self.profile)
        for recipe in recipes:
            directory = None if self.profile is None else Path(self.profile) / network.name(self.mode, recipe)
            report = speed.benchmark(self.mode, recipe, seconds=self.seconds, repeats=self.repeats, directory=directory)
            # At once: a long run is read while it goes on, and one that is ended keeps what it had.
            print(json.dumps(dataclasses.asdict(report)) if self.json else f"{speed.table(report)}\n", flush=True)
        return 0


@dataclasses.dataclass(kw_only=True)
class MeasureTrain(MeasureNetwork):
    """Measure how fast networks train on random images, and how near that is to what the machine can do."""

    mode = "train"


@dataclasses.dataclass(kw_only=True)
class MeasureInfer(MeasureNetwork):
    """Measure how fast networks classify random images, and how near that is to what the machine can do."""

    mode = "infer"


@dataclasses.dataclass
class MeasureData:
    """Measure how fast images become training batches, as a whole and stage by stage."""

    source: Annotated[tyro.conf.Positional[str | None], arg(metavar="SOURCE")] = None
    """digits, idx:PATH, folder:PATH or tfds:NAME; without it, photographs of ImageNet's size made for it."""
    image_size: Annotated[int, arg(metavar="PIXELS")] = DataConfig.image_size
    """Side of a crop; 75 or more."""
    batch_size: int = 32
    """Images per batch."""
    threads: Annotated[int | None, arg(metavar="INT")] = None
    """Threads that read, decode and augment; by default one for each core."""
    seconds: float = 5.0
    """Duration of each repeat, and of each stage."""
    repeats: int = 3
    """Number of repeats of the whole pipeline; the median counts."""
    data_dir: Directory = None
    """Directory of tensorflow-datasets' prepared data sets."""
    json: bool = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax import steps
        from inception_jax.benchmark import data

        refuse_extra(flags, "benchmark data")
        steps.use_synchronous_cpu_dispatch()
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


@dataclasses.dataclass
class MeasureSave:
    """Measure what checkpoints cost a training: time, memory and the share of its time."""

    experiment: Annotated[tyro.conf.Positional[str], arg(metavar="EXPERIMENT")]
    """As for train; its fields can be set as there."""
    run: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the run; needed where the experiment has several."""
    seconds: float = 10.0
    """Duration of the steps with a save, and of those without, in each repeat."""
    repeats: int = 3
    """Number of pairs of steps with and without a save; the medians count."""
    json: bool = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax.benchmark import save

        name, chosen = experiment_files.choose_run(
            experiment_files.load_runs(self.experiment), self.run, self.experiment
        )
        chosen = experiment_files.override(chosen, flags, prog=f"{PROG} benchmark save {self.experiment}")
        report = save.benchmark(chosen, name, seconds=self.seconds, repeats=self.repeats)
        print(json.dumps(dataclasses.asdict(report)) if self.json else save.table(report))
        return 0


@dataclasses.dataclass
class Benchmark:
    """Measure training, inference, the input pipeline, what checkpoints cost, or how long a start takes."""

    verb: Annotated[
        Annotated[MeasureTrain, tyro.conf.subcommand("train")]
        | Annotated[MeasureInfer, tyro.conf.subcommand("infer")]
        | Annotated[MeasureData, tyro.conf.subcommand("data")]
        | Annotated[MeasureSave, tyro.conf.subcommand("save")]
        | Annotated[MeasureStartup, tyro.conf.subcommand("startup")],
        arg(name=""),
    ]

    def __call__(self, flags: Sequence[str]) -> int:
        return self.verb(flags)
