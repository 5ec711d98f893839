"""The order of the images, and how they become batches: Grain's threads over a `Source`.

Batch k depends on the source, the seed and k, on nothing else: not on the threads, not on where a run was resumed,
and, as a set over all processes, not on how many processes there are. So the state of a run's data is one number.
"""

import functools
import threading
from collections.abc import Generator, Sequence
from typing import Any

import grain
import numpy as np

from inception_jax.data import preprocess
from inception_jax.data.sources import Source
from inception_jax.errors import UserError

Example = dict[str, Any]
"""One image of a batch: the same keys, without the two leading axes."""

Batch = dict[str, np.ndarray]
"""`images` uint8 [devices, N, S, S, 3], `labels` int32 [devices, N]; in evaluation also `mask` bool [devices, N]."""


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
    resize: preprocess.Resize,
    threads: int,
    prefetch: int,
) -> Generator[Batch, None, None]:
    """This process's share of batch `start`, `start` + 1 and so on, without end.

    The images come in a stream: the whole source in an order of its own for each epoch, epoch after epoch without a
    gap, so that a batch may hold the end of one epoch and the beginning of the next. Batch k is the stream from
    k * batch_size on; process p takes every process_count-th image of it from the p-th on.

    Close the generator (contextlib.closing) or lose the last reference to it: its threads end after the image each is
    at, and until then the interpreter waits for them.

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
      threads: Threads that read and augment, one batch each.
      prefetch: Batches held ready; at least `threads` are, since each is at a batch of its own.

    Raises:
      UserError: the devices cannot share the batch size evenly; while iterating, an image is broken.
    """
    share = images_per_process(batch_size, devices, process_count)
    # Two seeds, because Grain's shuffle adds the epoch to its own: seed 1 would begin with the second epoch of seed 0.
    order_seed, crop_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    crop = functools.partial(
        preprocess.distorted_crop, size=image_size, area=crop_area, aspect=crop_aspect, flip=flip, resize=resize
    )

    stopped = threading.Event()

    def example(index: int, rng: np.random.Generator) -> Example:
        image, label = _read(source, index, stopped)
        return {"images": crop(image, rng), "labels": label}

    stream = grain.MapDataset.range(len(source)).shuffle(seed=order_seed).repeat()
    # Before the slice: the generator is then a function of the seed and the position in the stream of all processes.
    examples = stream.random_map(example, seed=crop_seed)[process_index::process_count]
    return _iterate(examples, share, devices, start, threads, prefetch, stopped)


def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    devices: int,
    process_index: int = 0,
    process_count: int = 1,
    image_size: int,
    central_fraction: float,
    resize: preprocess.Resize,
    threads: int,
    prefetch: int,
) -> Generator[Batch, None, None]:
    """This process's share of every image once, in the source's order.

    Every process yields the same number of batches of the same shape. Where the images run out, `mask` is False, the
    image black and the label 0.

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

    Raises:
      UserError: as in `training_batches`.
    """
    share = images_per_process(batch_size, devices, process_count)
    crop = functools.partial(preprocess.central_crop, size=image_size, fraction=central_fraction, resize=resize)

    stopped = threading.Event()

    def example(index: int) -> Example:
        if index >= len(source):
            blank = np.zeros((image_size, image_size, 3), np.uint8)
            return {"images": blank, "labels": np.int32(0), "mask": False}
        image, label = _read(source, index, stopped)
        return {"images": crop(image), "labels": label, "mask": True}

    whole_batches = -(-len(source) // batch_size)
    examples = grain.MapDataset.range(whole_batches * batch_size)[process_index::process_count].map(example)
    return _iterate(examples, share, devices, 0, threads, prefetch, stopped)


def images_per_process(batch_size: int, devices: int, process_count: int) -> int:
    """Images of each batch for each process; UserError where the devices cannot share it evenly."""
    all_devices = devices * process_count
    if batch_size % all_devices:
        below = batch_size // all_devices * all_devices
        nearest = f"{below} or {below + all_devices}" if below else f"{all_devices}"
        raise UserError(
            f"the batch size {batch_size} cannot be shared by {all_devices} devices ({process_count} processes of "
            f"{devices}); the nearest that can is {nearest}."
        )
    return batch_size // process_count


def _stack(examples: Sequence[Example], devices: int) -> Batch:
    stacked = {key: np.stack([example[key] for example in examples]) for key in examples[0]}
    return {key: value.reshape(devices, -1, *value.shape[1:]) for key, value in stacked.items()}


def _read(source: Source, index: int, stopped: threading.Event) -> tuple[np.ndarray, np.int32]:
    """An image's pixels and its label."""
    # Grain lets a thread finish its batch, and the interpreter waits for the thread; this ends it at the next image.
    if stopped.is_set():
        raise RuntimeError("the iterator has been closed")
    record = source[index]
    return preprocess.decode(record.image, record.name), np.int32(record.label)


def _iterate(
    examples: grain.MapDataset,
    share: int,
    devices: int,
    start: int,
    threads: int,
    prefetch: int,
    stopped: threading.Event,
) -> Generator[Batch, None, None]:
    """Batches of `share` examples, made by `threads`; sets `stopped` when the generator ends, in whatever way."""
    # Batched before the threads, so that they cannot change what is in a batch. Grain's buffer then counts batches,
    # those in the making too, so that a smaller one than `threads` would leave some idle.
    batches = examples.batch(share, batch_fn=functools.partial(_stack, devices=devices))[start:]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, prefetch))
    iterator = iter(batches.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        stopped.set()
        iterator.close()
