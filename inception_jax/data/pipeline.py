"""The batches of training and validation: Grain's shuffled order of the images, filled in by threads.

Batch k depends on the source, the seed and k, on nothing else: not on the threads, not on where a run was resumed, not
on how the devices are spread over processes. So the state of a run's data is one number.
"""

import functools
import sys
from collections.abc import Generator, Sequence

import grain
import numpy as np

from inception_jax.config import DataConfig, OnError
from inception_jax.data import preprocess
from inception_jax.data.multicrop import Protocol
from inception_jax.data.multicrop_batches import multicrop_batches
from inception_jax.data.prefetch import Batch, FilledImage, Loading, Shard, fill_batches
from inception_jax.data.sources import Source
from inception_jax.errors import BrokenImage, UserError

# More than this, and the source itself is broken.
_MAX_CONSECUTIVE_SKIPS = 100


def training_batches(
    source: Source,
    data: DataConfig,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    shard: Shard,
    loading: Loading,
) -> Generator[Batch, None, None]:
    """This process's share of batch `start`, `start` + 1 and so on, without end.

    Each is `images` uint8 [devices, N, S, S, 3], `labels` and `skipped` int32 [devices, N]; `skipped` says how many
    broken images were passed over for each.

    The images come in a stream: the whole source in an order of its own for each epoch, epoch after epoch without a
    gap, so that a batch may hold the end of one epoch and the beginning of the next. Batch k is the stream from
    k * batch_size on; its devices, those of the first process first, take equal pieces of it one after another.

    Close the generator (contextlib.closing) or lose the last reference to it, and its threads end with the few images
    that they are at.

    Args:
      source: The training images.
      data: Size, crops, flips and interpolation; threads and errors are as in `loading`.
      batch_size: Images over all devices of all processes.
      seed: Of the order and the augmentation, 0 or more.
      start: Number of the first batch, for a run that is resumed.
      shard: Which part of each batch is made here.
      loading: Threads, prefetching and errors; a skipped image is replaced by the source's next intact one.

    Raises:
      UserError: the devices cannot share the batch size evenly; while iterating, an image is broken.
    """
    rows = shard.rows(batch_size)
    # Two seeds, because Grain's shuffle adds the epoch to its own: seed 1 would begin with the second epoch of seed 0.
    order_seed, crop_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    order = grain.MapDataset.range(len(source)).shuffle(seed=order_seed).repeat()
    # Each position's own seed: the generator that Grain gives is only lent.
    stream = order.random_map(lambda index, rng: (index, rng.integers(2**63)), seed=crop_seed)
    read = functools.partial(_read_skipping_broken, source, preprocess.Scratch(), loading.on_error)

    def fill(image: int, views: Sequence[np.ndarray]) -> FilledImage:
        number, place = divmod(image, rows)
        index, crop_seed = stream[number * batch_size + shard.process_index * rows + place]
        pixels, label, skipped = read(index)
        preprocess.distorted_crop(
            pixels,
            np.random.default_rng(crop_seed),
            size=data.image_size,
            area=data.crop_area,
            aspect=data.crop_aspect,
            flip=data.flip,
            resize=data.resize,
            out=views[0],
        )
        return FilledImage(label, index, skipped)

    images = range(start * rows, sys.maxsize)
    for batch in fill_batches(
        fill, images, rows=rows, image_size=data.image_size, devices=shard.devices, loading=loading
    ):
        del batch["positions"]
        yield batch


def evaluation_batches(
    source: Source, data: DataConfig, *, batch_size: int, shard: Shard, loading: Loading
) -> Generator[Batch, None, None]:
    """This process's share of every image once, in the source's order: the central crops of validation.

    As the batches of `multicrop_batches` for a single crop, but with `mask`, bool [devices, N], in place of
    `positions`: False where the images run out, and where one is skipped.

    Args:
      source: The validation images.
      data: Size, central fraction and interpolation; threads and errors are as in `loading`.
      batch_size: Images over all devices of all processes.
      shard: As in `training_batches`.
      loading: Threads, prefetching and errors; a skipped image is left out.

    Raises:
      UserError: as in `training_batches`.
    """
    batches = multicrop_batches(
        source,
        preprocess.Preprocessing(data.image_size, data.central_fraction, data.resize),
        protocol=Protocol(1),
        indices=np.arange(len(source)),
        rows=batch_size,
        shard=shard,
        loading=loading,
    )
    for batch in batches:
        batch["mask"] = batch.pop("positions") >= 0
        yield batch


def _read_skipping_broken(
    source: Source, scratch: preprocess.Scratch, on_error: OnError, index: int
) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """Reads the first intact image from `index` on; returns also what was wrong with those before it."""
    skipped: tuple[str, ...] = ()
    for candidate in range(index, index + min(_MAX_CONSECUTIVE_SKIPS, len(source))):
        try:
            record = source[candidate % len(source)]
            # The thread's next image may overwrite these pixels.
            return preprocess.decode(record.image, record.name, scratch), record.label, skipped
        except BrokenImage as error:
            if on_error == "stop":
                raise
            skipped += (str(error),)
    raise UserError(f"{len(skipped)} images in a row are broken, the last so: {skipped[-1]}")
