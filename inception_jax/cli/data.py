"""The verb that makes data sets: data prepare."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from inception_jax.cli.arguments import arg, no_more


@dataclasses.dataclass
class Prepare:
    """Turn images into a set that is read fast and at random, as tfds:OUT.

    Every image is decoded on the way and stored as it is. Started again, it goes on.
    """

    source: Annotated[tyro.conf.Positional[str], arg(metavar="SOURCE")]
    """folder:PATH, imagenet:DIR (ImageNet's two tars) or tfds:DIR (a set prepared as TFRecord)."""
    out: Annotated[tyro.conf.Positional[str], arg(metavar="OUT")]
    """Directory of the new set."""
    shard_images: int = 1024
    """Images of each file."""
    threads: Annotated[int | None, arg(metavar="INT")] = None
    """Files written at once; by default one for each core."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded; they are listed either way."""

    def __call__(self, flags: Sequence[str]) -> int:
        """Prepares and prints what there is."""
        from inception_jax.data import prepare

        no_more(flags, "data prepare")
        made = prepare.prepare(
            self.source, self.out, shard_images=self.shard_images, threads=self.threads, skip_broken=self.skip_broken
        )
        print(prepare.summary(made) if made else f"{self.out}: all is done; delete it to make it anew")
        print(f"{self.out}: use it as --data.source tfds:{self.out}")
        return 0
