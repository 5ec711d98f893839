"""Batches that a pool of threads fills ahead of their use, each image written straight into its place."""

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
"""Arrays whose first two axes are the devices of this process and the rows of each."""

# Images of one element of Grain: fewer cost more in handing out, more leave threads idle at the end of a batch.
_MAX_IMAGES_PER_BLOCK = 8


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


_Block = tuple[Batch, list[str]]
"""Arrays without the axis of devices, and what was wrong with each image that was skipped."""

FillImage = Callable[[int, Sequence[np.ndarray]], FilledImage]
"""(number of an image in the stream, arrays for its views) -> its label and status."""


def fill_batches(
    fill: FillImage,
    images: range,
    *,
    batches: int = sys.maxsize,
    views: int = 1,
    rows: int,
    image_size: int,
    devices: int,
    loading: Loading,
) -> Generator[Batch, None, None]:
    """Batches of the views of `images`, one image after another without a gap, filled ahead by Grain's threads.

    Each has `images` uint8 [devices, N, S, S, 3] and int32 [devices, N]: `labels`; `positions`; `skipped`, on the first
    row of an image the number of broken images passed over for it. The views of an image may begin in one batch and
    end in the next. Beyond the last image rows are black, with label 0 and position -1.

    About `threads` + `prefetch` images' views are in memory, or those of `prefetch` batches where these are more.

    Args:
      fill: Reads an image and writes its views, in any thread; the views of position -1 are made black.
      images: Numbers that `fill` is called with, in order.
      batches: Number of batches.
      views: Rows of each image.
      rows: Rows of each batch, over all devices of this process.
      image_size: Side of a view in pixels.
      devices: Number of equal pieces of each batch.
      loading: Threads and prefetch; errors are left to `fill`.
    """
    # A divisor of the rows, so that only an image of many views is ever divided between batches.
    images_per_block = 1 if views > 1 else max(n for n in range(1, _MAX_IMAGES_PER_BLOCK + 1) if rows % n == 0)

    def fill_block(first: int) -> _Block:
        numbers = range(first, min(first + images_per_block, images.stop))
        arrays = _uninitialised(len(numbers) * views, image_size)
        messages: list[str] = []
        for place, number in enumerate(numbers):
            own = {key: array[place * views : (place + 1) * views] for key, array in arrays.items()}
            filled = fill(number, list(own["images"]))
            own["labels"][:], own["positions"][:], own["skipped"][:] = filled.label, filled.position, 0
            own["skipped"][0] = len(filled.skipped)
            messages += filled.skipped
            if filled.position < 0:
                own["images"][:] = 0
        return arrays, messages

    ahead = max(loading.prefetch * rows, (loading.threads + loading.prefetch) * views)
    blocks_ahead = -(-ahead // (images_per_block * views))
    blocks = (
        grain.MapDataset.range(images.start, images.stop, images_per_block)
        .map(fill_block)
        .to_iter_dataset(grain.ReadOptions(min(loading.threads, blocks_ahead), blocks_ahead))
    )
    with contextlib.closing(iter(blocks)) as filled_blocks:
        block = _uninitialised(0, image_size)
        for _ in range(batches):
            batch, place = _uninitialised(rows, image_size), 0
            while place < rows:
                if not len(block["labels"]):
                    block, messages = next(filled_blocks, None) or (_padding(rows, image_size), [])
                    for message in messages:
                        loading.report(message)
                count = min(rows - place, len(block["labels"]))
                for key, array in block.items():
                    batch[key][place : place + count] = array[:count]
                    block[key] = array[count:]
                place += count
            yield {key: array.reshape(devices, -1, *array.shape[1:]) for key, array in batch.items()}


def _uninitialised(rows: int, image_size: int) -> Batch:
    integers = {key: np.empty(rows, np.int32) for key in ("labels", "positions", "skipped")}
    return {"images": np.empty((rows, image_size, image_size, 3), np.uint8), **integers}


def _padding(rows: int, image_size: int) -> Batch:
    zeros = {key: np.zeros_like(array) for key, array in _uninitialised(rows, image_size).items()}
    return zeros | {"positions": np.full(rows, -1, np.int32)}
