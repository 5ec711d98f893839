"""Class probabilities of trained networks, averaged over each image's crops."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from inception_jax import build, steps
from inception_jax.benchmark import fitting_batch
from inception_jax.config import DataConfig
from inception_jax.data import Protocol, colour, multicrop_batches
from inception_jax.data.multicrop_batches import batch_count
from inception_jax.data.preprocess import Preprocessing
from inception_jax.data.sources import Source
from inception_jax.errors import Preempted, UserError
from inception_jax.evaluation.members import Member
from inception_jax.models.network import Network
from inception_jax.system.memory import explain_out_of_memory
from inception_jax.system.preemption import Preemption
from inception_jax.system.progress import Progress

# Default number of crops per step and device.
_CROPS_PER_CPU, _CROPS_PER_ACCELERATOR = 16, 64


@dataclasses.dataclass(frozen=True)
class CropLoader:
    """Loader of the crops of an evaluation."""

    source: Source
    indices: np.ndarray
    """int [N]: numbers of the source's images to load."""
    protocol: Protocol
    """Crops of each image."""
    rows: int
    """Views per step over all devices of all processes."""
    data: DataConfig
    """Settings for reading images: threads, prefetch, on_error."""

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        count = len(self.indices)
        return batch_count(count, protocol=self.protocol, rows=self.rows, process_count=jax.process_count())

    def batches(self, preprocessing: Preprocessing) -> Generator[dict[str, np.ndarray], None, None]:
        """Batches of this process, for networks with this preprocessing."""
        return multicrop_batches(
            self.source,
            preprocessing,
            protocol=self.protocol,
            indices=self.indices,
            rows=self.rows,
            shard=build.local_shard(),
            loading=build.make_loading(self.data),
        )

    def images_done(self, batches: int) -> int:
        """Number of images complete after `batches` batches."""
        each = batches * self.rows // jax.process_count() // self.protocol.views
        return min(each * jax.process_count(), len(self.indices))


class Accumulator:
    """Sums of the probabilities of each image's views."""

    def __init__(self, images: int, classes: int, views: int):
        """`views` is the number per image, where a crop and its mirror image count as one."""
        self._sums = np.zeros((images, classes), np.float32)
        self._labels = np.zeros(images, np.int32)
        self._seen = np.zeros(images, np.int32)
        self._skipped, self._views = 0, views

    def add(self, output: Mapping[str, Any]) -> None:
        """Adds the output of `steps.predict_step` for one batch."""
        positions, labels, skipped, probabilities = (
            np.asarray(output[name]) for name in ("positions", "labels", "skipped", "probabilities")
        )
        rows = np.flatnonzero(positions >= 0)
        # Row by row, because a batch may have several views of one image.
        for row in rows:
            self._sums[positions[row]] += probabilities[row]
        self._labels[positions[rows]] = labels[rows]
        np.add.at(self._seen, positions[rows], 1)
        self._skipped += int(skipped.sum())

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Averages the views after the last batch.

        Returns:
          The positions of the images that were not skipped, int [seen], ascending; their labels, int32 [seen]; and
          their mean probabilities, float32 [seen, classes].
        """
        seen = np.flatnonzero(self._seen)
        if (self._seen[seen] != self._views).any() or len(seen) + self._skipped != len(self._seen):
            raise AssertionError(f"{len(seen)} images seen, {self._skipped} skipped, of {len(self._seen)}")
        self._sums /= self._views
        return seen, self._labels[seen], self._sums if len(seen) == len(self._sums) else self._sums[seen]


def rows_per_step(crops_at_once: int | None, protocol: Protocol) -> int:
    """Views per step over all devices for a number of crops, which counts mirror images.

    The result is rounded up to a multiple of the number of devices; None depends on the kind of device.
    """
    devices = jax.device_count()
    crops_per_row = 2 if protocol.mirrored else 1
    if crops_at_once is None:
        crops_at_once = devices * (_CROPS_PER_CPU if jax.default_backend() == "cpu" else _CROPS_PER_ACCELERATOR)
    if crops_at_once < 1:
        raise UserError(f"--tta-batch is {crops_at_once}; it must be 1 or more.")
    return -(-crops_at_once // (crops_per_row * devices)) * devices


def predict(
    member: Member, loader: CropLoader, *, number: int = 0, count: int = 1, preemption: Preemption
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Predicts the probabilities of a member for all images.

    Args:
      member: the network.
      loader: loader of the crops.
      number: number of the member in the ensemble, from 0.
      count: number of members in the ensemble.
      preemption: with an open context, SIGTERM ends the evaluation after the current step.

    Returns:
      The result of `Accumulator.finish` on process 0, None on the others.

    Raises:
      UserError: an image is broken, or the memory does not suffice for the crops of a step.
      Preempted: SIGTERM ended the evaluation.
    """
    first = jax.process_index() == 0
    accumulator = Accumulator(len(loader.indices), member.outputs.count, loader.protocol.views) if first else None
    name = "evaluation" if count == 1 else f"evaluation, network {number + 1} of {count}"
    progress = Progress(name, len(loader.indices), "images", quiet=not first)
    compiled = _compile_predict_step(
        member.model,
        member.preprocessing.mean,
        member.preprocessing.std,
        loader.protocol.mirrored,
        member.preprocessing.label_offset,
    )
    with (
        explain_out_of_memory(lambda: _too_large(member, loader)),
        contextlib.closing(progress),
        contextlib.closing(loader.batches(member.preprocessing)) as batches,
    ):
        step = functools.partial(compiled, steps.place(member.variables))
        for done, output in enumerate(_one_batch_late(step, batches), 1):
            if accumulator:
                accumulator.add(output)
            progress.advance(loader.images_done(done) - progress.count)
            progress.show()
            # Ascending over the networks too, because processes agree on a step.
            if preemption.reached(number * loader.num_batches + done):
                raise Preempted(f"{number} of {count} networks")
    return accumulator.finish() if accumulator else None


def _too_large(member: Member, loader: CropLoader) -> str:
    size, crops = member.preprocessing.image_size, loader.rows * (2 if loader.protocol.mirrored else 1)
    return f"{fitting_batch.sentence('--tta-batch', crops, size, fitting_batch.inference(member.model, size))}."


@functools.cache  # an ensemble may have a network several times
def _compile_predict_step(
    model: Network, mean: tuple[float, ...], std: tuple[float, ...], mirrored: bool, label_offset: int
) -> Callable[..., Any]:
    return steps.parallel(
        steps.predict_step,
        model=model,
        preprocess=functools.partial(colour.to_network_range, mean=mean, std=std),
        mirrored=mirrored,
        label_offset=label_offset,
    )


def _one_batch_late(step: Callable[..., Any], batches: Iterable[Mapping[str, np.ndarray]]) -> Iterator[Any]:
    """Outputs for each batch, yielded after the launch of the next one, so that the devices are never idle."""
    pending = None
    for batch in batches:
        launched = step(batch)
        if pending is not None:
            yield jax.block_until_ready(pending)
        pending = launched
    if pending is not None:
        yield jax.block_until_ready(pending)
