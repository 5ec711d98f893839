"""The verbs benchmark train, infer, data, save and startup."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from inception_jax.cli import experiment_files
from inception_jax.cli.arguments import PROG, Directory, arg
from inception_jax.config import DataConfig, Experiment, ModelConfig, TrainConfig


@dataclasses.dataclass
class MeasureStartup:
    """Measure the time from a train command to the end of its first step, with and without a compilation cache."""

    model: Annotated[str, arg(metavar="MODEL")] = ModelConfig.name
    """inception_v3, inception_v4, inception_resnet_v1, inception_resnet_v2, ..."""
    image_size: Annotated[int, arg(metavar="PIXELS")] = DataConfig.image_size
    """Side of the input in pixels; 75 or more."""
    batch_size: int = 4
    """Images per step."""
    repeats: int = 3
    """Number of starts with and of starts without a cache; medians are reported."""
    json: bool = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax.benchmark import startup

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
    """inception_v3, inception_v4, inception_resnet_v1, inception_resnet_v2, ...; several are measured in turn."""
    batch_size: Annotated[tuple[int, ...], arg(metavar="INT ...")] = (16,)
    """Images per step over all devices; several sizes are measured in turn."""
    image_size: Annotated[tuple[int, ...], arg(metavar="PIXELS ...")] = (DataConfig.image_size,)
    """Side of the input in pixels, 75 or more; several sizes are measured in turn."""
    dtype: Literal["float32", "bfloat16"] = ModelConfig.dtype
    """Dtype of the convolutions."""
    seconds: float = 5.0
    """Duration of each repeat."""
    repeats: int = 3
    """Number of repeats; the median is reported."""
    profile: Directory = None
    """Directory for a profile of ten steps for XProf (pip install xprof; xprof server --logdir DIR/NAME)."""
    json: bool = False
    """Print JSON, one object per line for each measurement."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax import steps
        from inception_jax.benchmark import network, speed
        from inception_jax.system import workdir

        steps.use_synchronous_cpu_dispatch()
        # All of them first, so that an invalid last one does not cost the measurements before it.
        recipes = [
            network.recipe(model, batch_size=batch_size, image_size=image_size, dtype=self.dtype)
            for model, image_size, batch_size in itertools.product(self.model, self.image_size, self.batch_size)
        ]
        if self.profile is not None:
            workdir.check_writable(self.profile)
        for recipe in recipes:
            directory = None if self.profile is None else Path(self.profile) / network.name(self.mode, recipe)
            report = speed.benchmark(self.mode, recipe, seconds=self.seconds, repeats=self.repeats, directory=directory)
            # Flushed, so that results can be read while later ones are measured.
            print(json.dumps(dataclasses.asdict(report)) if self.json else f"{speed.table(report)}\n", flush=True)
        return 0


@dataclasses.dataclass(kw_only=True)
class MeasureTrain(MeasureNetwork):
    """Measure training speed on random images, and compare it with the roofline of the machine."""

    mode = "train"


@dataclasses.dataclass(kw_only=True)
class MeasureInfer(MeasureNetwork):
    """Measure inference speed on random images, and compare it with the roofline of the machine."""

    mode = "infer"


@dataclasses.dataclass
class MeasureData:
    """Measure the speed of the input pipeline and of each of its stages."""

    source: Annotated[tyro.conf.Positional[str | None], arg(metavar="SOURCE")] = None
    """digits, idx:PATH, folder:PATH, csv:FILE or tfds:NAME; by default synthetic photographs of ImageNet's size."""
    image_size: Annotated[int, arg(metavar="PIXELS")] = DataConfig.image_size
    """Side of a crop in pixels; 75 or more."""
    batch_size: int = 32
    """Images per batch."""
    threads: Annotated[int | None, arg(metavar="INT")] = None
    """Threads that read, decode and augment; by default one per core."""
    seconds: float = 5.0
    """Duration of each repeat and of each stage."""
    repeats: int = 3
    """Number of repeats of the pipeline; the median is reported."""
    data_dir: Directory = None
    """Directory of prepared tensorflow-datasets data sets."""
    json: bool = False
    """Print one JSON object."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax import steps
        from inception_jax.benchmark import data

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
    """Measure the time and memory that saving checkpoints costs during training."""

    experiment: Annotated[tyro.conf.Positional[str], arg(metavar="EXPERIMENT")]
    """Experiment to train, as for inception-jax train; its fields can be set in the same way."""
    run: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the run; required if the experiment has several."""
    seconds: float = 10.0
    """Duration of the steps with a save, and of the steps without, in each repeat."""
    repeats: int = 3
    """Number of repeats; medians are reported."""
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


VERBS = {
    "train": MeasureTrain,
    "infer": MeasureInfer,
    "data": MeasureData,
    "save": MeasureSave,
    "startup": MeasureStartup,
}
