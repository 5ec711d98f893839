"""The verbs about data sets: data prepare, check, show."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from inception_jax.cli.arguments import Directory, arg, refuse_extra
from inception_jax.config import DataConfig, Resize


@dataclasses.dataclass
class Prepare:
    """Convert images to a data set with fast random access, tfds:OUT.

    Every image is decoded on the way and stored as it is. Started again, it goes on.
    """

    source: Annotated[tyro.conf.Positional[str], arg(metavar="SOURCE")]
    """folder:PATH, imagenet:DIR (ImageNet's two tars) or tfds:DIR (a set prepared as TFRecord)."""
    out: Annotated[tyro.conf.Positional[str], arg(metavar="OUT")]
    """Directory of the new set."""
    shard_images: int = 1024
    """Images per file."""
    threads: Annotated[int | None, arg(metavar="INT")] = None
    """Files written at once; by default one per core."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded; they are listed either way."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax.data import prepare

        refuse_extra(flags, "data prepare")
        prepared = prepare.prepare(
            self.source, self.out, shard_images=self.shard_images, threads=self.threads, skip_broken=self.skip_broken
        )
        print(prepare.summary(prepared) if prepared else f"{self.out}: all is done; delete it to make it anew")
        print(f"{self.out}: use it as --data.source tfds:{self.out}")
        return 0


@dataclasses.dataclass
class Check:
    """Read and decode every image of both splits; print counts, sizes, kinds of files and every broken image.

    Exits with 1 if an image is broken.
    """

    source: Annotated[tyro.conf.Positional[str], arg(metavar="SOURCE")]
    """digits, idx:PATH, folder:PATH or tfds:NAME."""
    data_dir: Directory = None
    """Directory of tensorflow-datasets' prepared data sets."""
    threads: Annotated[int | None, arg(metavar="INT")] = None
    """Images decoded at once; by default one per core."""
    json: bool = False
    """Print one JSON object, with the images of every class."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax.data import check

        refuse_extra(flags, "data check")
        report = check.check(self.source, data_dir=self.data_dir, threads=self.threads)
        print(json.dumps(dataclasses.asdict(report)) if self.json else check.table(report))
        return 1 if report.broken else 0


@dataclasses.dataclass
class Show:
    """Draw training crops as the network sees them, or the central crops of validation."""

    source: Annotated[tyro.conf.Positional[str], arg(metavar="SOURCE")]
    """digits, idx:PATH, folder:PATH or tfds:NAME."""
    out: Annotated[str, arg(metavar="FILE.png")]
    """The picture."""
    split: Literal["train", "validation"] = "train"
    """Split to draw crops of."""
    image_size: Annotated[int, arg(metavar="PIXELS")] = DataConfig.image_size
    """Side of a crop; 75 or more."""
    rows: int = 4
    """Rows of the grid."""
    columns: int = 6
    """Columns of the grid."""
    seed: int = 0
    """Seed of the choice, the crops and the colours."""
    crop_area: Annotated[tuple[float, float], arg(metavar="LEAST MOST")] = DataConfig.crop_area
    """Minimum and maximum fraction of an image's area in a training crop."""
    crop_aspect: Annotated[tuple[float, float], arg(metavar="LEAST MOST")] = DataConfig.crop_aspect
    """Minimum and maximum width / height of a training crop."""
    flip: bool = DataConfig.flip
    """Half of the training crops are mirrored; --no-flip leaves them as they are."""
    colour: bool = DataConfig.colour
    """The colours of training crops are distorted; --no-colour leaves them as they are."""
    central_fraction: float = DataConfig.central_fraction
    """Fraction of each side in a validation crop."""
    resize: Annotated[Resize, arg(metavar="KIND")] = DataConfig.resize
    """Interpolation: bilinear, bicubic, area, antialiased_bilinear or antialiased_bicubic."""
    data_dir: Directory = None
    """Directory of tensorflow-datasets' prepared data sets."""
    overwrite: bool = False
    """Replace the picture where it exists."""

    def __call__(self, flags: Sequence[str]) -> int:
        from inception_jax.data import preview

        refuse_extra(flags, "data show")
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


@dataclasses.dataclass
class Data:
    """Prepare a data set, check every image of one, or draw crops of it."""

    verb: Annotated[
        Annotated[Prepare, tyro.conf.subcommand("prepare")]
        | Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[Show, tyro.conf.subcommand("show")],
        arg(name=""),
    ]

    def __call__(self, flags: Sequence[str]) -> int:
        return self.verb(flags)
