"""Preview of the network's input: a grid of crops with the names of their classes."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from inception_jax import config
from inception_jax.config import DataConfig
from inception_jax.data import colour, evaluation_batches, training_batches
from inception_jax.data.prefetch import Loading, Shard
from inception_jax.data.sources import Source, open_data
from inception_jax.errors import UserError
from inception_jax.system.atomic import atomic_write, refuse_existing
from inception_jax.system.cores import available_cores
from inception_jax.system.workdir import check_place, check_writable

_GAP = 4
"""Pixels between crops."""
_MAX_SIDE = 8_192
"""Maximum side of the picture in pixels; distorting the colours of so many takes some gigabytes."""


def write_preview(
    data: DataConfig, out: str | Path, *, split: str, rows: int, columns: int, seed: int, overwrite: bool = False
) -> None:
    """Writes a PNG of rows x columns crops, fewer where a validation split has fewer images.

    Args:
      data: Source and preprocessing of the images.
      out: Output file, ending in .png; written atomically.
      split: "train" for crops and colours as in training, "validation" for central crops of randomly drawn images.
      rows: Rows of the grid.
      columns: Columns of the grid.
      seed: Seed of the drawn images, crops and colours.
      overwrite: Replace the file where it exists.

    Raises:
      UserError: the source cannot be opened, a value is out of its range, or `out` exists or its directory is not
        writable.
      RunFailed: the file cannot be written.
    """
    config.check_data(data, seed=seed)
    sides = [
        columns * (data.image_size + _GAP) + _GAP,
        rows * (data.image_size + _GAP + title_height(data.image_size)) + _GAP,
    ]
    if min(rows, columns) < 1 or max(sides) > _MAX_SIDE:
        raise UserError(
            f"{rows} rows and {columns} columns must be 1 or more each and no more than {_MAX_SIDE:,} pixels a side."
        )
    if Path(out).suffix.lower() != ".png":
        raise UserError(f"{out} must end in .png.")
    check_place(out, data.source)
    refuse_existing(out, overwrite=overwrite)
    check_writable(Path(out).parent)
    source = open_data(data, split)
    crops = training_crops if split == "train" else validation_crops
    images, labels = crops(data, source, rows * columns, seed)
    picture = draw_grid(images, [source.class_names[label] for label in labels], columns)
    with atomic_write(Path(out)) as file:
        picture.save(file, "PNG")


def training_crops(data: DataConfig, source: Source, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """First `count` crops of training with this seed, and their labels: uint8 [count, S, S, 3], int32 [count].

    The colours are distorted as in training, but with other draws than in its first step.
    """
    loading = Loading(available_cores(), prefetch=1)
    batches = training_batches(source, data, batch_size=count, seed=seed, shard=Shard(), loading=loading)
    with contextlib.closing(batches):
        batch = next(batches)
    images = batch["images"][0]
    if data.colour:
        images = jax.jit(colour.distort_colour)(jax.random.key(seed), images)
    return np.asarray(_as_seen(images)), batch["labels"][0]


def validation_crops(data: DataConfig, source: Source, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Central crops of `count` images drawn with this seed, in the source's order, as arrays like `training_crops`."""
    count = min(count, len(source))
    # Drawn, because the first images of most sources have the same class.
    chosen = np.sort(np.random.default_rng(seed).choice(len(source), count, replace=False)).tolist()
    shown = Source(source.class_names, count, lambda number: source[chosen[number]])
    loading = Loading(available_cores(), prefetch=1)
    batches = evaluation_batches(shown, data, batch_size=count, shard=Shard(), loading=loading)
    with contextlib.closing(batches):
        batch = next(batches)
    return np.asarray(_as_seen(batch["images"][0])), batch["labels"][0]


def draw_grid(images: np.ndarray, titles: Sequence[str], columns: int) -> PIL.Image.Image:
    """Draws a grid of images row by row, unscaled, each below its title.

    Args:
      images: uint8 [N, S, S, 3].
      titles: One for each image; shortened to the width of the image.
      columns: Columns of the grid.
    """
    size = images.shape[1]
    font, height = _font(size), size + title_height(size)
    rows = -(-len(images) // columns)
    picture = PIL.Image.new("RGB", (_GAP + columns * (size + _GAP), _GAP + rows * (height + _GAP)), "white")
    drawing = PIL.ImageDraw.Draw(picture)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (size + _GAP), _GAP + row * (height + _GAP)
        drawing.text((left, top), _shorten(title, font, size), fill="black", font=font)
        picture.paste(PIL.Image.fromarray(image), (left, top + title_height(size)))
    return picture


def title_height(size: int) -> int:
    """Height in pixels of the title of a crop of `size` pixels."""
    return _font_size(size) * 4 // 3


def _font_size(size: int) -> int:
    return max(10, size // 16)


def _font(size: int) -> PIL.ImageFont.FreeTypeFont:
    import matplotlib  # for its font: Pillow's own has Latin letters only

    return PIL.ImageFont.truetype(
        os.path.join(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), _font_size(size)
    )


def _shorten(title: str, font: PIL.ImageFont.FreeTypeFont, width: int) -> str:
    # The name of a folder may contain line breaks and bytes that are not text.
    title = " ".join(title.encode(errors="replace").decode().split())
    if font.getlength(title) <= width:
        return title
    while title and font.getlength(title + "…") > width:
        title = title[:-1]
    return title + "…"


@jax.jit
def _as_seen(images: jax.Array) -> jax.Array:
    return jnp.round((colour.to_network_range(images) + 1) * 127.5).astype(jnp.uint8)
