"""The crops of every image as rows of batches: each image decoded once, however many crops it has."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from inception_jax.data import crops, preprocess
from inception_jax.data.ahead import made_ahead
from inception_jax.data.pipeline import OnError, images_per_process
from inception_jax.data.sources import Source
from inception_jax.errors import BrokenImage

Batch = dict[str, np.ndarray]
"""`images` uint8 [devices, N, S, S, 3], one view a row; `positions`, `labels` and `skipped` int32 [devices, N].

`positions` says which of the images that are evaluated a row is of, or -1; `skipped` is 1 on the first row of an image
that was left out because it is broken.
"""


class _Cut(NamedTuple):
    """An image's views uint8 [views, S, S, 3] and its label, or what is wrong with it."""

    views: np.ndarray | None
    label: int = 0
    broken: str = ""


class _Row(NamedTuple):
    """What goes into one row of a batch."""

    view: np.ndarray | None
    position: int
    label: int
    skipped: int


def crop_batches(
    source: Source,
    *,
    protocol: crops.Protocol,
    image_size: int,
    central_fraction: float,
    resize: preprocess.Resize,
    indices: np.ndarray,
    rows: int,
    devices: int,
    process_index: int = 0,
    process_count: int = 1,
    start: int = 0,
    threads: int,
    prefetch: int,
    on_error: OnError = "stop",
    report: Callable[[str], None] = lambda message: None,
) -> Generator[Batch, None, None]:
    """This process's share of the batches `start`, `start` + 1, ... up to `batch_count`.

    Whole images go to the processes in turn: the first of `indices` to the first process. A process's rows are the
    views of its first image in the order of `crops.boxes`, then those of its second, without a gap, so that an image
    may begin in one batch and end in the next. Its devices take equal pieces of them one after another. Every process
    yields the same number of batches of the same shape; where its images run out and where one is left out, a row's
    position is -1, its view black and its label 0.

    About `threads` + `prefetch` images' views are in memory, or those of `prefetch` batches where these are more.
    Close the generator (contextlib.closing) or lose the last reference to it, and its threads end with the few images
    that they are at.

    Args:
      source: The validation images.
      protocol: Which views of each image.
      image_size: Side of the views in pixels.
      central_fraction: As in `crops.cut`.
      resize: As in `crops.cut`.
      indices: int [images]: the numbers in `source` of the images that are evaluated, in their order.
      rows: Views over all devices of all processes.
      devices: How many devices this process feeds; every process must have as many.
      process_index: Which of the processes this is.
      process_count: How many processes there are.
      start: Number of the first batch, for an evaluation that is resumed; nothing is decoded for those before it.
      threads: Threads that read, decode and cut.
      prefetch: Batches, and images beside those that the threads are at, made before they are asked for.
      on_error: What a broken image does: "stop" raises, "skip" leaves it out.
      report: Told what is wrong with each image that is left out, in the thread that iterates.

    Raises:
      UserError: the devices cannot share the rows evenly; while iterating, an image is broken.
    """
    share, views = images_per_process(rows, devices, process_count), protocol.views
    mine = range(process_index, len(indices), process_count)
    first_image, first_view = divmod(start * share, views)
    scratch = preprocess.Scratch()
    cut = functools.partial(
        crops.cut, protocol=protocol, size=image_size, central_fraction=central_fraction, resize=resize
    )

    def begin(pool: ThreadPoolExecutor, position: int) -> Callable[[], _Cut]:
        return pool.submit(_cut_image, source, int(indices[position]), scratch, cut, on_error).result

    ahead = max(threads + prefetch, -(-prefetch * share // views))
    count = batch_count(len(indices), protocol=protocol, rows=rows, process_count=process_count)
    with contextlib.closing(made_ahead(begin, mine[first_image:], threads, ahead)) as images:
        stream = itertools.islice(_rows(images, mine[first_image:], views, report), first_view, None)
        for _ in range(start, count):
            yield _batch(itertools.islice(stream, share), devices, share, image_size)


def batch_count(images: int, *, protocol: crops.Protocol, rows: int, process_count: int) -> int:
    """How many batches `crop_batches` yields for `images` images from the first on, in every process."""
    most = -(-images // process_count)
    return -(-most * protocol.views * process_count // rows)


def _cut_image(
    source: Source, index: int, scratch: preprocess.Scratch, cut: Callable[[np.ndarray], np.ndarray], on_error: OnError
) -> _Cut:
    try:
        record = source[index]
        return _Cut(cut(preprocess.decode(record.image, record.name, scratch)), record.label)
    except BrokenImage as error:
        if on_error == "stop":
            raise
        return _Cut(None, broken=str(error))


def _rows(images: Iterator[_Cut], positions: range, views: int, report: Callable[[str], None]) -> Iterator[_Row]:
    """Every view of every image; those of an image that is broken are empty."""
    for position, image in zip(positions, images, strict=True):
        if image.views is None:
            report(image.broken)
            yield from (_Row(None, -1, 0, int(view == 0)) for view in range(views))
        else:
            yield from (_Row(view, position, image.label, 0) for view in image.views)


def _batch(rows: Iterator[_Row], devices: int, share: int, image_size: int) -> Batch:
    """A batch of the next `share` rows, filled up where there are fewer."""
    batch: Batch = {
        "images": np.zeros((share, image_size, image_size, 3), np.uint8),
        "positions": np.full(share, -1, np.int32),
        "labels": np.zeros(share, np.int32),
        "skipped": np.zeros(share, np.int32),
    }
    for place, row in enumerate(rows):
        if row.view is not None:
            batch["images"][place] = row.view
        batch["positions"][place], batch["labels"][place], batch["skipped"][place] = row[1:]
    return {key: array.reshape(devices, -1, *array.shape[1:]) for key, array in batch.items()}
