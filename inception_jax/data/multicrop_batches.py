"""The crops of every image as rows of batches: each image decoded once, however many crops it has."""

import collections
import functools
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from inception_jax.config import OnError, Resize
from inception_jax.data import multicrop, preprocess
from inception_jax.data.pipeline import images_per_process
from inception_jax.data.prefetch import prefetch_map
from inception_jax.data.sources import Source
from inception_jax.errors import BrokenImage

Batch = dict[str, np.ndarray]
"""`images` uint8 [devices, N, S, S, 3], one view a row; `positions`, `labels` and `skipped` int32 [devices, N].

`positions` says which of the images that are evaluated a row is of, or -1; `skipped` is 1 on the first row of an image
that was left out because it is broken.
"""

_Row = tuple[Batch, int]
"""A batch in the making, and a place in it."""


class _PendingBatch:
    """A batch that threads are filling; the views of one image may span several batches."""

    def __init__(self, local_rows: int, image_size: int):
        """Allocates an empty batch."""
        self.arrays: Batch = {
            "images": np.empty((local_rows, image_size, image_size, 3), np.uint8),
            "positions": np.full(local_rows, -1, np.int32),
            "labels": np.zeros(local_rows, np.int32),
            "skipped": np.zeros(local_rows, np.int32),
        }
        self._tasks: list[tuple[Future[str], bool]] = []

    def add(self, task: Future[str], begins: bool) -> None:
        """Adds a task to wait for, whose image begins in this batch or began in an earlier one."""
        self._tasks.append((task, begins))

    def finish(self, devices: int, report: Callable[[str], None]) -> Batch:
        """Waits for the threads; raises what the first image to fail raised."""
        for task, begins in self._tasks:
            broken = task.result()
            if broken and begins:
                report(broken)
        self.arrays["images"][self.arrays["positions"] < 0] = 0
        return {key: array.reshape(devices, -1, *array.shape[1:]) for key, array in self.arrays.items()}


def multicrop_batches(
    source: Source,
    *,
    protocol: multicrop.Protocol,
    image_size: int,
    central_fraction: float,
    resize: Resize,
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
    views of its first image in the order of `multicrop.boxes`, then those of its second, without a gap, so an image
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
      central_fraction: As in `multicrop.cut`.
      resize: As in `multicrop.cut`.
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
    local_rows, views = images_per_process(rows, devices, process_count), protocol.views
    own = range(process_index, len(indices), process_count)
    cut = functools.partial(
        multicrop.cut, protocol=protocol, size=image_size, central_fraction=central_fraction, resize=resize
    )
    fill = functools.partial(_fill, source, preprocess.Scratch(), cut, on_error)
    pending: dict[int, _PendingBatch] = collections.defaultdict(lambda: _PendingBatch(local_rows, image_size))

    def submit(pool: ThreadPoolExecutor, number: int) -> Callable[[], Batch]:
        # Those that begin in this batch; of the first batch also the one that began before, in a batch nobody takes.
        first = number * local_rows // views if number == start else -(-number * local_rows // views)
        for image in range(first, min(len(own), -(-(number + 1) * local_rows // views))):
            places = [divmod(row, local_rows) for row in range(image * views, (image + 1) * views)]
            rows_of_image = [(pending[batch].arrays, place) for batch, place in places]
            task = pool.submit(fill, int(indices[own[image]]), own[image], rows_of_image)
            for batch in range(places[0][0], places[-1][0] + 1):
                pending[batch].add(task, begins=batch == places[0][0])
        finish = pending[number].finish
        del pending[number]
        return functools.partial(finish, devices, report)

    count = batch_count(len(indices), protocol=protocol, rows=rows, process_count=process_count)
    ahead = max(prefetch, -(-(threads + prefetch) * views // local_rows))
    return prefetch_map(submit, range(start, count), threads, ahead)


def batch_count(images: int, *, protocol: multicrop.Protocol, rows: int, process_count: int) -> int:
    """Number of batches that `multicrop_batches` yields for `images` images on every process."""
    images_each = -(-images // process_count)
    return -(-images_each * protocol.views * process_count // rows)


def _fill(
    source: Source,
    scratch: preprocess.Scratch,
    cut: Callable[..., object],
    on_error: OnError,
    index: int,
    position: int,
    rows: Sequence[_Row],
) -> str:
    """Fills in the rows of an image; returns what is wrong with it where it is left out."""
    try:
        record = source[index]
        pixels = preprocess.decode(record.image, record.name, scratch)
    except BrokenImage as error:
        if on_error == "stop":
            raise
        batch, place = rows[0]
        batch["skipped"][place] = 1
        return str(error)
    # Straight into their places: a copy of them would take longer than cutting them.
    cut(pixels, out=[batch["images"][place] for batch, place in rows])
    for batch, place in rows:
        batch["positions"][place], batch["labels"][place] = position, record.label
    return ""
