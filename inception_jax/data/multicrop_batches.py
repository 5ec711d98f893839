"""Batches of the crops of every image, each image decoded once."""

from collections.abc import Generator, Sequence

import numpy as np

from inception_jax.data import multicrop, preprocess
from inception_jax.data.prefetch import Batch, FilledImage, Loading, Shard, fill_batches
from inception_jax.data.sources import Source
from inception_jax.errors import BrokenImage


def multicrop_batches(
    source: Source,
    preprocessing: preprocess.Preprocessing,
    *,
    protocol: multicrop.Protocol,
    indices: np.ndarray,
    rows: int,
    shard: Shard,
    loading: Loading,
) -> Generator[Batch, None, None]:
    """Batches of one view per row: the part of each that this process makes.

    Each has `images` uint8 [devices, N, S, S, 3] and int32 [devices, N]: `labels`; `positions`, the row's index into
    `indices`, or -1; `skipped`, 1 on the first row of an image that is left out because it is broken.

    Images are dealt to the processes in turn. The rows of a process are the views of its images in the order of
    `multicrop.boxes`, without a gap, so an image may begin in one batch and end in the next. Every process yields
    `batch_count` batches of the same shape; rows of padding and of broken images have position -1, label 0 and black
    pixels.

    About `threads` + `prefetch` images' views are in memory, or those of `prefetch` batches where these are more. The
    threads end when the generator is closed (contextlib.closing) or garbage-collected.

    Args:
      source: The validation images.
      preprocessing: Size, central fraction and interpolation, as in `multicrop.cut`.
      protocol: Views of each image.
      indices: int [images]: numbers in `source` of the images to evaluate, in order.
      rows: Views over all devices of all processes.
      shard: Part of each batch that this process makes.
      loading: Threads, prefetch and errors; a skipped image is left out.

    Raises:
      UserError: `rows` is not a multiple of the devices; while iterating, an image is broken.
    """
    own = range(shard.process_index, len(indices), shard.process_count)
    scratch = preprocess.Scratch()

    def fill(image: int, views: Sequence[np.ndarray]) -> FilledImage:
        try:
            record = source[int(indices[own[image]])]
            pixels = preprocess.decode(record.image, record.name, scratch)
        except BrokenImage as error:
            if loading.on_error == "stop":
                raise
            return FilledImage(skipped=(str(error),))
        multicrop.cut(
            pixels,
            protocol,
            size=preprocessing.image_size,
            central_fraction=preprocessing.central_fraction,
            resize=preprocessing.resize,
            out=views,
        )
        return FilledImage(record.label, own[image])

    count = batch_count(len(indices), protocol=protocol, rows=rows, process_count=shard.process_count)
    return fill_batches(
        fill,
        range(count),
        images=len(own),
        views=protocol.views,
        rows=shard.rows(rows),
        image_size=preprocessing.image_size,
        devices=shard.devices,
        loading=loading,
    )


def batch_count(images: int, *, protocol: multicrop.Protocol, rows: int, process_count: int) -> int:
    """Number of batches that `multicrop_batches` yields for `images` images on every process."""
    images_each = -(-images // process_count)
    return -(-images_each * protocol.views * process_count // rows)
