"""Batches that a pool of threads fills ahead of their use, each image written straight into its place."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from inception_jax.config import DataConfig, OnError
from inception_jax.errors import UserError

Batch = dict[str, np.ndarray]
"""Arrays whose first two axes are the devices of this process and the rows of each."""

# Of one task of a thread: fewer cost more in handing out, more leave threads without work at the end of a batch.
_IMAGES_PER_TASK = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One process's share of every batch; alone and with one device unless said otherwise."""

    process_index: int = 0
    process_count: int = 1
    devices: int = 1
    """Devices of this process; every process must have as many."""

    def rows(self, batch_size: int) -> int:
        """Rows of each batch on each process; UserError where the devices cannot share `batch_size` evenly."""
        all_devices = self.devices * self.process_count
        if batch_size % all_devices:
            below = batch_size // all_devices * all_devices
            nearest = f"{below} or {below + all_devices}" if below else f"{all_devices}"
            raise UserError(
                f"the batch size {batch_size} cannot be shared by {all_devices} devices "
                f"({self.process_count} processes of {self.devices}); the nearest that can is {nearest}."
            )
        return batch_size // self.process_count


@dataclasses.dataclass(frozen=True)
class Loading:
    """How images are loaded: by how many threads, how far ahead, and what a broken one does."""

    threads: int
    """Threads that read, decode and crop."""
    prefetch: int = DataConfig.prefetch
    """Batches being filled or ready while the newest is used; the memory needed is one more."""
    on_error: OnError = DataConfig.on_error
    """What a broken image does: "stop" raises, "skip" replaces it in training and leaves it out elsewhere."""
    report: Callable[[str], None] = lambda message: None
    """Told what is wrong with each image that is skipped, in the thread that iterates."""


class FilledImage(NamedTuple):
    """Label and status of an image whose views have been written into their batches."""

    label: int = 0
    position: int = -1
    """Which image it is; -1 is one that was left out, whose views are black."""
    skipped: tuple[str, ...] = ()
    """What was wrong with each broken image that was passed over for this one."""


FillImage = Callable[[int, Sequence[np.ndarray]], FilledImage]
"""(number of the image in the stream, where to write its views) -> what was written."""

_Row = tuple[Batch, int]
"""The arrays of a batch that is being filled, and a place in them."""


def fill_batches(
    fill: FillImage,
    numbers: Iterable[int],
    *,
    images: int | None = None,
    views: int = 1,
    rows: int,
    image_size: int,
    devices: int,
    loading: Loading,
) -> Generator[Batch, None, None]:
    """Batches of the stream of all images' views, one after another without a gap; threads fill them ahead.

    Each has `images` uint8 [devices, N, S, S, 3] and int32 [devices, N]: `labels`; `positions`, which image a row is of
    or -1; `skipped`, on the first row of an image how many broken ones were passed over for it. The views of an image
    may begin in one batch and end in the next. Beyond the last image rows are black, with the label 0.

    About `threads` + `prefetch` images' views are in memory, or those of `prefetch` batches where these are more.

    Args:
      fill: Reads an image and writes its views, in any thread.
      numbers: The batches wanted, rising by one; nothing is read for those before the first.
      images: How many images the stream has; None is without end.
      views: Rows of each image.
      rows: Rows of each batch, of all devices.
      image_size: Side of a view in pixels.
      devices: How many pieces each batch is divided into.
      loading: Threads and prefetching; errors are for `fill` to handle.
    """
    pending: dict[int, _PendingBatch] = collections.defaultdict(lambda: _PendingBatch(rows, image_size))
    images_per_task = _IMAGES_PER_TASK if views == 1 else 1
    begun = 0

    def submit(pool: ThreadPoolExecutor, number: int) -> Callable[[], Batch]:
        nonlocal begun
        # The images from the first that has a view in this batch: one that began in a batch nobody takes is read too.
        first = max(begun, number * rows // views)
        begun = -(-(number + 1) * rows // views)
        last = begun if images is None else min(images, begun)
        for image in range(first, last, images_per_task):
            own = range(image, min(image + images_per_task, last))
            places = [divmod(row, rows) for row in range(own[0] * views, (own[-1] + 1) * views)]
            task = pool.submit(_fill_rows, fill, own, [(pending[batch].arrays, place) for batch, place in places])
            for batch in range(places[0][0], places[-1][0] + 1):
                pending[batch].add(task, begins=batch == places[0][0])
        finish = pending[number].finish
        del pending[number]
        return functools.partial(finish, devices, loading.report)

    ahead = max(loading.prefetch, -(-(loading.threads + loading.prefetch) * views // rows))
    return prefetch_map(submit, numbers, loading.threads, ahead)


class _PendingBatch:
    """A batch that threads are filling."""

    def __init__(self, rows: int, image_size: int):
        self.arrays: Batch = {
            "images": np.empty((rows, image_size, image_size, 3), np.uint8),
            "positions": np.full(rows, -1, np.int32),
            "labels": np.zeros(rows, np.int32),
            "skipped": np.zeros(rows, np.int32),
        }
        self._tasks: list[tuple[Future[list[str]], bool]] = []

    def add(self, task: Future[list[str]], begins: bool) -> None:
        """Adds a task to wait for, whose images begin in this batch or began in an earlier one."""
        self._tasks.append((task, begins))

    def finish(self, devices: int, report: Callable[[str], None]) -> Batch:
        """Waits for the threads; raises what the first image to fail raised."""
        for task, begins in self._tasks:
            messages = task.result()
            for message in messages if begins else ():
                report(message)
        self.arrays["images"][self.arrays["positions"] < 0] = 0
        return {key: array.reshape(devices, -1, *array.shape[1:]) for key, array in self.arrays.items()}


def _fill_rows(fill: FillImage, images: range, rows: Sequence[_Row]) -> list[str]:
    """Fills the rows of some images; returns what was wrong with those that were skipped."""
    messages: list[str] = []
    views = len(rows) // len(images)
    for number, image in enumerate(images):
        own = rows[number * views : (number + 1) * views]
        # Straight into their places: copying them would take longer than cropping them.
        filled = fill(image, [batch["images"][place] for batch, place in own])
        if filled.position >= 0:
            for batch, place in own:
                batch["positions"][place], batch["labels"][place] = filled.position, filled.label
        batch, place = own[0]
        batch["skipped"][place] = len(filled.skipped)
        messages += filled.skipped
    return messages


def prefetch_map(
    submit: Callable[[ThreadPoolExecutor, Item], Callable[[], Result]], items: Iterable[Item], threads: int, ahead: int
) -> Generator[Result, None, None]:
    """Ordered results of a thread pool, with up to `ahead` items in flight.

    The threads end, with the items that they are working on, when the generator is closed or garbage-collected.

    Args:
      submit: Submits an item's work to a pool of `threads`; returns a function that waits for the result.
      items: Consumed one by one, up to `ahead` items early.
      threads: Number of threads.
      ahead: Number of results in flight or ready while the newest is used; the memory needed is one more.
    """
    pool = ThreadPoolExecutor(threads, "images")
    pending: collections.deque[Callable[[], Result]] = collections.deque()
    try:
        for item in items:
            pending.append(submit(pool, item))
            if len(pending) > ahead:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()
    finally:
        pool.shutdown(cancel_futures=True)
