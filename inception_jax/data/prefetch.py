"""Batches of images, read and preprocessed ahead of their use by the threads of Grain.

Grain is as fast as a thread pool written by hand: 1.00 of its speed in training and with 144 crops (two threads, 299
pixels).
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from inception_jax.config import DataConfig, OnError
from inception_jax.errors import UserError

Batch = dict[str, np.ndarray]
"""Arrays [devices, rows of each device, ...] of this process."""

# Images per Grain element: fewer add scheduling overhead, more leave threads idle at the end of a batch.
_MAX_IMAGES_PER_BLOCK = 8


@dataclasses.dataclass(frozen=True)
class Shard:
    """Part of every batch that one process makes; by default all of it, for one device."""

    process_index: int = 0
    process_count: int = 1
    devices: int = 1
    """Number of devices of each process."""

    def rows(self, batch_size: int) -> int:
        """Rows of each batch on each process; UserError unless `batch_size` is a multiple of the number of devices."""
        all_devices = self.devices * self.process_count
        if batch_size % all_devices:
            below = batch_size // all_devices * all_devices
            nearest = f"{below} or {below + all_devices}" if below else f"{all_devices}"
            raise UserError(
                f"the batch size {batch_size} cannot be shared by {all_devices} devices "
                f"({self.process_count} processes of {self.devices}); use {nearest}."
            )
        return batch_size // self.process_count


@dataclasses.dataclass(frozen=True)
class Loading:
    """Number of threads, prefetch, and treatment of broken images."""

    threads: int
    """Number of threads that read, decode and crop."""
    prefetch: int = DataConfig.prefetch
    """Batches being filled or ready while another is in use."""
    on_error: OnError = DataConfig.on_error
    """Treatment of a broken image: "stop" raises, "skip" replaces it in training and leaves it out elsewhere."""
    report: Callable[[str], None] = lambda message: None
    """Called with the fault of each skipped image, in the thread that iterates."""


class FilledImage(NamedTuple):
    """Label and status of an image whose views have been written."""

    label: int = 0
    position: int = -1
    """Number of the image; -1 for one that is left out."""
    skipped: tuple[str, ...] = ()
    """Faults of the broken images that this one replaces, or its own where it is left out."""


FillImage = Callable[[int, Sequence[np.ndarray]], FilledImage]
"""(number of an image in the stream, arrays for its views) -> its label and status."""


def fill_batches(
    fill: FillImage,
    batches: range,
    *,
    images: int = sys.maxsize,
    views: int = 1,
    rows: int,
    image_size: int,
    devices: int,
    loading: Loading,
) -> Generator[Batch, None, None]:
    """Batches of the views of a stream of images, one image after another without a gap, filled ahead.

    Each has `images` uint8 [devices, N, S, S, 3] and int32 [devices, N]: `labels`; `positions`; `skipped`, on the first
    row of an image its number of faults. The views of an image may begin in one batch and end in the next. Beyond the
    last image rows are black, with label 0 and position -1.

    About `threads` + `prefetch` images' views are in memory, or those of `prefetch` batches where these are more.

    Args:
      fill: Reads an image and writes its views, in any thread; the views of position -1 are made black.
      batches: Numbers of the batches, from 0 where images have several views; nothing is read for earlier ones.
      images: Number of images in the stream.
      views: Rows of each image.
      rows: Rows of each batch, over all devices of this process.
      image_size: Side of a view in pixels.
      devices: Number of equal pieces of each batch.
      loading: Threads and prefetch; errors are left to `fill`.
    """
    # A divisor of the rows, so that only an image of many views is ever divided between batches.
    images_per_block = 1 if views > 1 else max(n for n in range(1, _MAX_IMAGES_PER_BLOCK + 1) if rows % n == 0)
    rows_ahead = max(loading.prefetch * rows, (loading.threads + loading.prefetch) * views)
    blocks_ahead = -(-rows_ahead // (images_per_block * views))
    pending: dict[int, Batch] = {}

    def fill_block(first: int) -> list[str]:
        """Fills the rows of some images; returns the faults of those that were skipped."""
        messages: list[str] = []
        for image in range(first, min(first + images_per_block, images)):
            places = [divmod(row, rows) for row in range(image * views, (image + 1) * views)]
            own = [(pending[number], place) for number, place in places]
            # Written in place, because copying 144 crops takes as long as cutting them.
            filled = fill(image, [batch["images"][place] for batch, place in own])
            if filled.position >= 0:
                for batch, place in own:
                    batch["positions"][place], batch["labels"][place] = filled.position, filled.label
            batch, place = own[0]
            batch["skipped"][place] = len(filled.skipped)
            messages += filled.skipped
        return messages

    done = batches.start * rows // views
    blocks = grain.MapDataset.range(done, images, images_per_block).map(fill_block)
    options = grain.ReadOptions(min(loading.threads, blocks_ahead), blocks_ahead)
    with contextlib.closing(iter(blocks.to_iter_dataset(options))) as filled_blocks:
        for number in batches:
            needed = min(images, -(-(number + 1) * rows // views))
            furthest = min(images, needed + blocks_ahead * images_per_block)
            # In this thread, because glibc keeps freed memory only of the main thread (`system.malloc`).
            for later in range(number + len(pending), max(number + 1, -(-furthest * views // rows))):
                pending[later] = _empty_batch(rows, image_size)
            while done < needed:
                for message in next(filled_blocks):
                    loading.report(message)
                done += images_per_block
            batch = pending.pop(number)
            batch["images"][batch["positions"] < 0] = 0
            yield {key: array.reshape(devices, -1, *array.shape[1:]) for key, array in batch.items()}


def _empty_batch(rows: int, image_size: int) -> Batch:
    """A batch without images; its pixels are uninitialised."""
    return {
        "images": np.empty((rows, image_size, image_size, 3), np.uint8),
        "positions": np.full(rows, -1, np.int32),
        "labels": np.zeros(rows, np.int32),
        "skipped": np.zeros(rows, np.int32),
    }
