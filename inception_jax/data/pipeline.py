"""Batches of training and validation, in the order of Grain's shuffle or, balanced, of `sampling`.

Batch k is a function of the source, the seed and k: it does not depend on the threads, on where a run was resumed, or
on the number of processes. A checkpoint therefore keeps no state of the pipeline but k.
"""

import functools
import itertools
import sys
from collections.abc import Generator, Iterator, Sequence

import grain
import numpy as np

from inception_jax.config import DataConfig, OnError
from inception_jax.data import preprocess
from inception_jax.data.multicrop import Protocol
from inception_jax.data.multicrop_batches import multicrop_batches
from inception_jax.data.prefetch import Batch, FilledImage, Loading, Shard, fill_batches
from inception_jax.data.sampling import BalancedOrder
from inception_jax.data.sources import Source
from inception_jax.errors import BrokenImage, UserError

# This many broken images in a row mean that the source itself is broken.
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
    """Endless batches of training, from number `start` on: the part of each that this process makes.

    Each has `images` uint8 [devices, N, S, S, 3], `labels` and `skipped` int32 [devices, N], the number of broken
    images that were skipped for each.

    Every epoch is a permutation of the source; epochs follow one another without a gap, so a batch may contain the end
    of one and the beginning of the next. With balanced sampling the order is that of `BalancedOrder`. Batch k starts at
    image k * batch_size of this stream and is divided evenly between the devices, in the order of the processes.

    The threads end when the generator is closed (contextlib.closing) or garbage-collected.

    Args:
      source: The training images.
      data: Sampling, size, crops, flips and interpolation.
      batch_size: Images over all devices of all processes.
      seed: Seed of the order and the augmentation, 0 or more.
      start: Number of the first batch, for a run that is resumed.
      shard: Part of each batch that this process makes.
      loading: Threads, prefetch and errors; a skipped image is replaced by the source's next intact one, with
        balanced sampling by the next of its class.

    Raises:
      UserError: the batch size is not a multiple of the devices; while iterating, an image is broken.
    """
    rows = shard.rows(batch_size)
    # Two seeds, because Grain's shuffle adds the epoch to its own: seed 1 would begin with the second epoch of seed 0.
    order_seed, crop_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    if data.sampling == "balanced":
        balanced = _balanced_order(source, seed, loading)
        order, from_image_on = grain.MapDataset.range(sys.maxsize).map(balanced.__getitem__), balanced.from_image_on
    else:
        order = grain.MapDataset.range(len(source)).shuffle(seed=order_seed).repeat()
        from_image_on = functools.partial(_images_from, len(source))
    # A seed for each position, since Grain reuses the generator that it passes.
    stream = order.random_map(lambda index, rng: (index, rng.integers(2**63)), seed=crop_seed)
    scratch = preprocess.Scratch()

    def fill(image: int, views: Sequence[np.ndarray]) -> FilledImage:
        number, place = divmod(image, rows)
        index, crop_seed = stream[number * batch_size + shard.process_index * rows + place]
        pixels, label, skipped = _read_skipping_broken(source, scratch, loading.on_error, from_image_on(index))
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

    endless = range(start, sys.maxsize // rows)
    for batch in fill_batches(
        fill, endless, rows=rows, image_size=data.image_size, devices=shard.devices, loading=loading
    ):
        del batch["positions"]
        yield batch


def evaluation_batches(
    source: Source, data: DataConfig, *, batch_size: int, shard: Shard, loading: Loading
) -> Generator[Batch, None, None]:
    """Central crops of every image once, in the source's order, for validation: the part that this process makes.

    Same as `multicrop_batches` with a single crop, but with `mask` bool [devices, N] in place of `positions`: False for
    padding and for skipped images.

    Args:
      source: The validation images.
      data: Size, central fraction and interpolation.
      batch_size: Images over all devices of all processes.
      shard: Part of each batch that this process makes.
      loading: Threads, prefetch and errors; a skipped image is left out.

    Raises:
      UserError: as in `training_batches`.
    """
    batches = multicrop_batches(
        source,
        preprocess.Preprocessing.from_config(data),
        protocol=Protocol(1),
        indices=np.arange(len(source)),
        rows=batch_size,
        shard=shard,
        loading=loading,
    )
    for batch in batches:
        batch["mask"] = batch.pop("positions") >= 0
        yield batch


def _balanced_order(source: Source, seed: int, loading: Loading) -> BalancedOrder:
    """Balanced order of a source; one whose label cannot be read stops or is left out, as a broken image."""
    labels = source.labels
    for number in np.flatnonzero(labels < 0).tolist():
        try:
            source[number]
        except BrokenImage as error:
            if loading.on_error == "stop":
                raise
            loading.report(str(error))
    if (labels < 0).all():
        raise UserError("no label of the training images can be read, so the classes cannot be drawn equally often.")
    return BalancedOrder(labels, seed)


def _images_from(count: int, number: int) -> Iterator[int]:
    """All `count` images of a source, beginning with one."""
    return itertools.chain(range(number, count), range(number))


def _read_skipping_broken(
    source: Source, scratch: preprocess.Scratch, on_error: OnError, candidates: Iterator[int]
) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """Pixels and label of the first intact image of the candidates, and the faults of those before it."""
    skipped: tuple[str, ...] = ()
    for candidate in itertools.islice(candidates, _MAX_CONSECUTIVE_SKIPS):
        try:
            record = source[candidate]
            # The next image of this thread may overwrite these pixels.
            return preprocess.decode(record.image, record.name, scratch), record.label, skipped
        except BrokenImage as error:
            if on_error == "stop":
                raise
            skipped += (str(error),)
    raise UserError(f"{len(skipped)} images in a row are broken; the last fault: {skipped[-1]}")
