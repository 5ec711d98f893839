"""The verbs data prepare, check and show."""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from inception_jax.cli.arguments import Directory, arg
from inception_jax.config import DataConfig, Resize, check_data

if TYPE_CHECKING:
    from inception_jax.data.sources import SplitOptions


@dataclasses.dataclass
class Prepare:
    """Convert images to a data set with fast random access, tfds:OUT.

    Every image is decoded as a check and stored unchanged. The same command resumes an interrupted conversion.
    """

    source: Annotated[tyro.conf.Positional[str], arg(metavar="SOURCE")]
    """folder:PATH, csv:FILE, imagenet:DIR (ImageNet's two tars) or tfds:DIR (a data set prepared as TFRecord)."""
    out: Annotated[tyro.conf.Positional[str], arg(metavar="OUT")]
    """Directory of the new data set."""
    shard_images: int = 1024
    """Images per file."""
    threads: Annotated[int | None, arg(metavar="INT")] = None
    """Files written in parallel; by default one per core."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded; they are listed with and without this flag."""
    validation_fraction: float = DataConfig.validation_fraction
    """Fraction of each class held out where folder:PATH or csv:FILE has no validation split."""
    train_split: Annotated[str | None, arg(metavar="SPLIT")] = None
    """Training split: a folder of folder:."""
    validation_split: Annotated[str | None, arg(metavar="SPLIT")] = None
    """Validation split, likewise."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax.data import prepare

        prepared = prepare.prepare(
            self.source,
            self.out,
            shard_images=self.shard_images,
            threads=self.threads,
            skip_broken=self.skip_broken,
            options=_split_options(self),
        )
        print(prepare.summary(prepared) if prepared else f"{self.out}: already complete; delete it to convert again")
        print(f"{self.out}: use it as --data.source tfds:{self.out}")
        return 0


@dataclasses.dataclass
class Check:
    """Read and decode every image; print splits, counts, sizes, formats, duplicates and broken images.

    Exits with 1 if an image is broken.
    """

    source: Annotated[tyro.conf.Positional[str], arg(metavar="SOURCE")]
    """digits, idx:PATH, folder:PATH, csv:FILE or tfds:NAME."""
    data_dir: Directory = None
    """Directory of prepared tensorflow-datasets data sets."""
    threads: Annotated[int | None, arg(metavar="INT")] = None
    """Images decoded in parallel; by default one per core."""
    validation_fraction: float = DataConfig.validation_fraction
    """Fraction of each class held out where the source has no validation split."""
    train_split: Annotated[str | None, arg(metavar="SPLIT")] = None
    """Training split: a folder of folder:, or in tfds' syntax."""
    validation_split: Annotated[str | None, arg(metavar="SPLIT")] = None
    """Validation split, likewise."""
    json: bool = False
    """Print one JSON object, including the number of images per class."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax.data import check

        report = check.check(self.source, data_dir=self.data_dir, threads=self.threads, options=_split_options(self))
        print(json.dumps(dataclasses.asdict(report)) if self.json else check.table(report))
        return 1 if report.broken else 0


@dataclasses.dataclass
class Show:
    """Draw a grid of training crops, as the network sees them, or of central validation crops."""

    source: Annotated[tyro.conf.Positional[str], arg(metavar="SOURCE")]
    """digits, idx:PATH, folder:PATH, csv:FILE or tfds:NAME."""
    out: Annotated[str, arg(metavar="FILE.png")]
    """Path of the picture."""
    split: Literal["train", "validation"] = "train"
    """Split whose crops are drawn."""
    image_size: Annotated[int, arg(metavar="PIXELS")] = DataConfig.image_size
    """Side of a crop in pixels; 75 or more."""
    rows: int = 4
    """Rows of the grid."""
    columns: int = 6
    """Columns of the grid."""
    seed: int = 0
    """Seed of the choice of images, the crops and the colours."""
    crop_area: Annotated[tuple[float, float], arg(metavar="MIN MAX")] = DataConfig.crop_area
    """Minimum and maximum fraction of an image's area in a training crop."""
    crop_aspect: Annotated[tuple[float, float], arg(metavar="MIN MAX")] = DataConfig.crop_aspect
    """Minimum and maximum width / height of a training crop."""
    flip: bool = DataConfig.flip
    """Do not mirror training crops; by default half of them are mirrored."""
    colour: bool = DataConfig.colour
    """Do not distort the colours of training crops."""
    central_fraction: float = DataConfig.central_fraction
    """Fraction of each side in a validation crop."""
    resize: Annotated[Resize, arg(metavar="KIND")] = DataConfig.resize
    """Interpolation: bilinear, bicubic, area, antialiased_bilinear or antialiased_bicubic."""
    data_dir: Directory = None
    """Directory of prepared tensorflow-datasets data sets."""
    validation_fraction: float = DataConfig.validation_fraction
    """Fraction of each class held out where the source has no validation split."""
    train_split: Annotated[str | None, arg(metavar="SPLIT")] = None
    """Training split: a folder of folder:, or in tfds' syntax."""
    validation_split: Annotated[str | None, arg(metavar="SPLIT")] = None
    """Validation split, likewise."""
    overwrite: bool = False
    """Replace the picture where it exists."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax.data import preview

        names = [field.name for field in dataclasses.fields(DataConfig)]
        data = DataConfig(**{name: getattr(self, name) for name in names if hasattr(self, name)})
        preview.write_preview(
            data,
            self.out,
            split=self.split,
            rows=self.rows,
            columns=self.columns,
            seed=self.seed,
            overwrite=self.overwrite,
        )
        print(self.out)
        return 0


def _split_options(verb: Prepare | Check) -> "SplitOptions":
    """The options for splits of a verb; UserError where one is out of its range."""
    from inception_jax.data.sources import SplitOptions

    data = DataConfig(
        source=verb.source,
        validation_fraction=verb.validation_fraction,
        train_split=verb.train_split,
        validation_split=verb.validation_split,
    )
    check_data(data)
    return SplitOptions.from_config(data)


VERBS = {"prepare": Prepare, "check": Check, "show": Show}
