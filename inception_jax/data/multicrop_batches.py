"""The crops of every image as rows of batches: each image decoded once, however many crops it has."""

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
    """This process's share of the batches, `batch_count` of them.

    Each is `images` uint8 [devices, N, S, S, 3], one view a row, and int32 [devices, N]: `labels`; `positions`, which
    of `indices` a row is of, or -1; `skipped`, 1 on the first row of an image that was left out because it is broken.

    Whole images go to the processes in turn: the first of `indices` to the first process. A process's rows are the
    views of its first image in the order of `multicrop.boxes`, then those of its second, without a gap, so an image
    may begin in one batch and end in the next. Its devices take equal pieces of them one after another. Every process
    yields the same number of batches of the same shape; where its images run out and where one is left out, a row's
    position is -1, its view black and its label 0.

    About `threads` + `prefetch` images' views are in memory, or those of `prefetch` batches where these are more.
    Close the generator (contextlib.closing) or lose the last reference to it, and its threads end with the few images
    that they are at.

    Args:
      source: The validation images.
      preprocessing: Size, central fraction and interpolation, as in `multicrop.cut`.
      protocol: Which views of each image.
      indices: int [images]: the numbers in `source` of the images that are evaluated, in their order.
      rows: Views over all devices of all processes.
      shard: Which part of each batch is made here.
      loading: Threads, prefetching and errors; a skipped image is left out.

    Raises:
      UserError: the devices cannot share the rows evenly; while iterating, an image is broken.
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
        range(len(own)),
        batches=count,
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
