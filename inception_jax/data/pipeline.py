"""The batches of training and validation: Grain's shuffled order of the images, filled in by threads.

Batch k depends on the source, the seed and k, on nothing else: not on the threads, not on where a run was resumed, not
on how the devices are spread over processes. So the state of a run's data is one number.
"""

import functools
import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grain
import numpy as np

from inception_jax.config import OnError, Resize
from inception_jax.data import preprocess
from inception_jax.data.prefetch import prefetch_map
from inception_jax.data.sources import Source
from inception_jax.errors import BrokenImage, UserError

Batch = dict[str, np.ndarray]
"""`images` uint8 [devices, N, S, S, 3], `labels` and `skipped` int32 [devices, N]; in evaluation `mask` bool as well.

`skipped` says how many broken images were passed over for each.
"""

# Of one task of a thread: fewer cost more in handing out, more leave threads without work at the end of a batch.
_IMAGES_PER_TASK = 8
# More than this, and the source itself is broken.
_MAX_CONSECUTIVE_SKIPS = 100


class _Slot(NamedTuple):
    """Label and status of one image of a batch."""

    label: int
    counted: bool = True
    skipped: tuple[str, ...] = ()


_FillSlot = Callable[[int, np.ndarray], _Slot]
"""(position in the stream, where to write the image) -> its slot."""


def training_batches(
    source: Source,
    *,
    batch_size: int,
    devices: int,
    process_index: int = 0,
    process_count: int = 1,
    seed: int,
    start: int = 0,
    image_size: int,
    crop_area: tuple[float, float],
    crop_aspect: tuple[float, float],
    flip: bool,
    resize: Resize,
    threads: int,
    prefetch: int,
    on_error: OnError = "stop",
    report: Callable[[str], None] = lambda message: None,
) -> Generator[Batch, None, None]:
    """This process's share of batch `start`, `start` + 1 and so on, without end.

    The images come in a stream: the whole source in an order of its own for each epoch, epoch after epoch without a
    gap, so that a batch may hold the end of one epoch and the beginning of the next. Batch k is the stream from
    k * batch_size on; its devices, those of the first process first, take equal pieces of it one after another.

    Close the generator (contextlib.closing) or lose the last reference to it, and its threads end with the few images
    that they are at.

    Args:
      source: The training images.
      batch_size: Images over all devices of all processes.
      devices: How many devices this process feeds; every process must have as many.
      process_index: Which of the processes this is.
      process_count: How many processes there are.
      seed: Of the order and the augmentation, 0 or more.
      start: Number of the first batch, for a run that is resumed.
      image_size: Side of the images in pixels.
      crop_area: As `area` of `preprocess.distorted_crop`.
      crop_aspect: As `aspect` of `preprocess.distorted_crop`.
      flip: As in `preprocess.distorted_crop`.
      resize: As in `preprocess.distorted_crop`.
      threads: Threads that read, decode and augment.
      prefetch: Batches in the making or ready while the newest is used; the memory needed is one more.
      on_error: What a broken image does: "stop" raises, "skip" takes the next of the source that is not broken.
      report: Told what is wrong with each image that is skipped, in the thread that iterates.

    Raises:
      UserError: the devices cannot share the batch size evenly; while iterating, an image is broken.
    """
    local_batch_size = images_per_process(batch_size, devices, process_count)
    # Two seeds, because Grain's shuffle adds the epoch to its own: seed 1 would begin with the second epoch of seed 0.
    order_seed, crop_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    order = grain.MapDataset.range(len(source)).shuffle(seed=order_seed).repeat()
    # Each position's own seed: the generator that Grain gives is only lent.
    stream = order.random_map(lambda index, rng: (index, rng.integers(2**63)), seed=crop_seed)
    read = functools.partial(_read_skipping_broken, source, preprocess.Scratch(), on_error)
    crop = functools.partial(
        preprocess.distorted_crop, size=image_size, area=crop_area, aspect=crop_aspect, flip=flip, resize=resize
    )

    def fill(position: int, out: np.ndarray) -> _Slot:
        index, crop_seed = stream[position]
        pixels, label, skipped = read(index)
        crop(pixels, np.random.default_rng(crop_seed), out=out)
        return _Slot(label, skipped=skipped)

    first_positions = itertools.count(start * batch_size + process_index * local_batch_size, batch_size)
    for batch in _iterate(fill, first_positions, local_batch_size, devices, image_size, threads, prefetch, report):
        del batch["mask"]
        yield batch


def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    devices: int,
    process_index: int = 0,
    process_count: int = 1,
    image_size: int,
    central_fraction: float,
    resize: Resize,
    threads: int,
    prefetch: int,
    on_error: OnError = "stop",
    report: Callable[[str], None] = lambda message: None,
) -> Generator[Batch, None, None]:
    """This process's share of every image once, in the source's order.

    Every process yields the same number of batches of the same shape. Where the images run out, and where one is
    skipped, `mask` is False, the image black and the label 0.

    Args:
      source: The validation images.
      batch_size: Images over all devices of all processes.
      devices: How many devices this process feeds; every process must have as many.
      process_index: Which of the processes this is.
      process_count: How many processes there are.
      image_size: Side of the images in pixels.
      central_fraction: As `fraction` of `preprocess.central_crop`.
      resize: As in `preprocess.central_crop`.
      threads: As in `training_batches`.
      prefetch: As in `training_batches`.
      on_error: What a broken image does: "stop" raises, "skip" leaves it out.
      report: As in `training_batches`.

    Raises:
      UserError: as in `training_batches`.
    """
    local_batch_size = images_per_process(batch_size, devices, process_count)
    scratch = preprocess.Scratch()
    crop = functools.partial(preprocess.central_crop, size=image_size, fraction=central_fraction, resize=resize)

    def fill(position: int, out: np.ndarray) -> _Slot:
        skipped: tuple[str, ...] = ()
        if position < len(source):
            try:
                pixels, label = _read(source, scratch, position)
                crop(pixels, out=out)
                return _Slot(label)
            except BrokenImage as error:
                if on_error == "stop":
                    raise
                skipped = (str(error),)
        out.fill(0)
        return _Slot(0, counted=False, skipped=skipped)

    first_positions = range(process_index * local_batch_size, -(-len(source) // batch_size) * batch_size, batch_size)
    yield from _iterate(fill, first_positions, local_batch_size, devices, image_size, threads, prefetch, report)


def images_per_process(batch_size: int, devices: int, process_count: int) -> int:
    """Number of images of each batch on each process; UserError where the devices cannot share it evenly."""
    all_devices = devices * process_count
    if batch_size % all_devices:
        below = batch_size // all_devices * all_devices
        nearest = f"{below} or {below + all_devices}" if below else f"{all_devices}"
        raise UserError(
            f"the batch size {batch_size} cannot be shared by {all_devices} devices ({process_count} processes of "
            f"{devices}); the nearest that can is {nearest}."
        )
    return batch_size // process_count


def _read(source: Source, scratch: preprocess.Scratch, index: int) -> tuple[np.ndarray, int]:
    """An image's pixels, which the thread's next image may overwrite, and its label."""
    record = source[index]
    return preprocess.decode(record.image, record.name, scratch), record.label


def _read_skipping_broken(
    source: Source, scratch: preprocess.Scratch, on_error: OnError, index: int
) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """Reads the first intact image from `index` on; returns also what was wrong with those before it."""
    skipped: tuple[str, ...] = ()
    for candidate in range(index, index + min(_MAX_CONSECUTIVE_SKIPS, len(source))):
        try:
            return *_read(source, scratch, candidate % len(source)), skipped
        except BrokenImage as error:
            if on_error == "stop":
                raise
            skipped += (str(error),)
    raise UserError(f"{len(skipped)} images in a row are broken, the last so: {skipped[-1]}")


class _PendingBatch:
    """A batch that threads are filling."""

    def __init__(self, pool: ThreadPoolExecutor, fill: _FillSlot, positions: range, image_size: int):
        """Distributes the images at `positions` of the stream over the threads of `pool`."""
        count = len(positions)
        self._fill, self._positions = fill, positions
        self._batch: Batch = {
            "images": np.empty((count, image_size, image_size, 3), np.uint8),
            "labels": np.zeros(count, np.int32),
            "skipped": np.zeros(count, np.int32),
            "mask": np.zeros(count, bool),
        }
        slots = range(count)
        tasks = (slots[first : first + _IMAGES_PER_TASK] for first in range(0, count, _IMAGES_PER_TASK))
        self._tasks = [pool.submit(self._fill_in, task) for task in tasks]

    def finish(self, devices: int, report: Callable[[str], None]) -> Batch:
        """Waits for the threads; raises what the first image to fail raised."""
        for task in self._tasks:
            for message in task.result():
                report(message)
        return {key: array.reshape(devices, -1, *array.shape[1:]) for key, array in self._batch.items()}

    def _fill_in(self, slots: range) -> list[str]:
        messages: list[str] = []
        for slot in slots:
            # Straight into its place, so that no image is copied once more.
            slot_info = self._fill(self._positions[slot], self._batch["images"][slot])
            self._batch["labels"][slot] = slot_info.label
            self._batch["skipped"][slot] = len(slot_info.skipped)
            self._batch["mask"][slot] = slot_info.counted
            messages += slot_info.skipped
        return messages


def _iterate(
    fill: _FillSlot,
    first_positions: Iterable[int],
    local_batch_size: int,
    devices: int,
    image_size: int,
    threads: int,
    prefetch: int,
    report: Callable[[str], None],
) -> Generator[Batch, None, None]:
    """Batches of `local_batch_size` images from each of `first_positions` on, made by `threads`, `prefetch` ahead."""

    def submit(pool: ThreadPoolExecutor, first: int) -> Callable[[], Batch]:
        pending = _PendingBatch(pool, fill, range(first, first + local_batch_size), image_size)
        return functools.partial(pending.finish, devices, report)

    return prefetch_map(submit, first_positions, threads, prefetch)
