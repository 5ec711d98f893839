"""Probabilities of trained networks: the mean of each one's softmax over each image's crops."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from inception_jax import build, steps
from inception_jax.config import DataConfig
from inception_jax.data import Protocol, colour, multicrop_batches
from inception_jax.data.multicrop_batches import batch_count
from inception_jax.data.preprocess import Preprocessing
from inception_jax.data.sources import Source
from inception_jax.errors import Preempted, UserError
from inception_jax.evaluation.accumulator import Accumulator
from inception_jax.evaluation.members import Member
from inception_jax.evaluation.partial_results import PartialResults
from inception_jax.models.network import Network
from inception_jax.system import hosts
from inception_jax.system.cores import available_cores
from inception_jax.system.preemption import Preemption
from inception_jax.system.progress import Progress

# Through the network at once, on each device.
_CROPS_PER_CPU, _CROPS_PER_ACCELERATOR = 16, 64

_Step = Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class CropLoader:
    """Loads the crops that networks are evaluated on."""

    source: Source
    indices: np.ndarray
    """int [N]: which of the source's images."""
    protocol: Protocol
    """The crops of each image."""
    rows: int
    """Views per step over all devices of all processes."""
    data: DataConfig
    """Settings for reading images: threads, prefetch, on_error."""

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        count = len(self.indices)
        return batch_count(count, protocol=self.protocol, rows=self.rows, process_count=jax.process_count())

    def batches_from(self, preprocessing: Preprocessing, start: int) -> Generator[dict[str, np.ndarray], None, None]:
        """This process's share of the batches from `start` on, for networks with this preparation."""
        return multicrop_batches(
            self.source,
            protocol=self.protocol,
            image_size=preprocessing.image_size,
            central_fraction=preprocessing.central_fraction,
            resize=preprocessing.resize,
            indices=self.indices,
            rows=self.rows,
            devices=jax.local_device_count(),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            start=start,
            threads=self.data.threads or available_cores(),
            prefetch=self.data.prefetch,
            on_error=self.data.on_error,
            report=build.say_skipped,
        )

    def images_done(self, batches: int) -> int:
        """Number of images complete after so many batches."""
        each = batches * self.rows // jax.process_count() // self.protocol.views
        return min(each * jax.process_count(), len(self.indices))


def rows_per_step(crops_at_once: int | None, protocol: Protocol) -> int:
    """Views per step over all devices, for so many crops, mirror images counted.

    Rounded up to what the devices can share evenly; None is what suits them.
    """
    devices = jax.device_count()
    crops_per_row = 2 if protocol.mirrored else 1
    if crops_at_once is None:
        crops_at_once = devices * (_CROPS_PER_CPU if jax.default_backend() == "cpu" else _CROPS_PER_ACCELERATOR)
    if crops_at_once < 1:
        raise UserError(f"--tta-batch is {crops_at_once}; it must be 1 or more.")
    return -(-crops_at_once // (crops_per_row * devices)) * devices


def predict(
    members: Sequence[Member], loader: CropLoader, *, partial_results: PartialResults | None, preemption: Preemption
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of the members for all images.

    Args:
      members: the networks, which know as many classes as the source.
      loader: the images.
      partial_results: where the first process keeps what is done, and has kept it.
      preemption: with an open context, SIGTERM ends the evaluation after its step.

    Returns:
      Which of `show.indices` were seen (the others were skipped as broken), their labels, and the probabilities,
      float32 [members, seen, classes]; in the first process. The others help, and know of nothing seen.

    Raises:
      UserError: an image is broken.
      Preempted: SIGTERM came; what was done is kept.
    """
    sums = np.zeros((len(members), len(loader.indices), loader.source.num_classes), np.float32)
    seen, labels = np.arange(0), np.zeros(0, np.int32)
    groups = _group_by_crops(members, loader.protocol)
    for number, group in enumerate(groups):
        accumulator = Accumulator([sums[place] for place in group], loader.protocol.views)
        start = _restore(partial_results, number, accumulator)
        name = "evaluation" if len(groups) == 1 else f"evaluation, pass {number + 1} of {len(groups)}"
        with contextlib.ExitStack() as opened:
            batches = opened.enter_context(
                contextlib.closing(loader.batches_from(members[group[0]].preprocessing, start))
            )
            progress = opened.enter_context(contextlib.closing(_progress(name, loader, start)))
            predict_steps = [_predict_step(members[place], loader.protocol.mirrored) for place in group]
            for done, outputs in enumerate(_one_batch_late(predict_steps, batches), start + 1):
                if jax.process_index() == 0:
                    accumulator.add(outputs)
                progress.advance(loader.images_done(done) - progress.count)
                progress.show()
                # Rising over the passes too, which several processes need to agree on a step.
                stop = preemption.reached(number * loader.num_batches + done)
                if partial_results and (stop or done == loader.num_batches or partial_results.due()):
                    partial_results.keep(number, done, accumulator)
                if stop:
                    raise Preempted(done)
        if jax.process_index() == 0:
            seen, labels = accumulator.finish()
    return seen, labels, sums if len(seen) == len(loader.indices) else sums[:, seen]


def _group_by_crops(members: Sequence[Member], protocol: Protocol) -> list[list[int]]:
    """The members, by their places, in groups that are shown the same crops: cut once for all of a group."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, member in enumerate(members):
        preprocessing = member.preprocessing
        # The central fraction is of the single crop alone.
        fraction = preprocessing.central_fraction if protocol.crops == 1 else None
        groups.setdefault((preprocessing.image_size, fraction, preprocessing.resize), []).append(place)
    return list(groups.values())


def _restore(partial_results: PartialResults | None, number: int, accumulator: Accumulator) -> int:
    """Restores a pass into process 0's accumulator; returns its number of batches on all processes."""
    return (
        hosts.process_zero_decides(lambda: partial_results.restore(number, accumulator) if partial_results else 0) or 0
    )


def _predict_step(member: Member, mirrored: bool) -> _Step:
    preprocessing = member.preprocessing
    step = _compile_predict_step(
        member.model, preprocessing.mean, preprocessing.std, mirrored, preprocessing.label_offset
    )
    return functools.partial(step, steps.place(member.variables))


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


def _one_batch_late(predict_steps: Sequence[_Step], batches: Iterable[Mapping[str, np.ndarray]]) -> Iterator[list[Any]]:
    """Outputs of the networks for each batch, yielded one batch late, so that the devices always have the next."""
    pending = None
    for batch in batches:
        launched = [model(batch) for model in predict_steps]
        if pending is not None:
            yield jax.block_until_ready(pending)
        pending = launched
    if pending is not None:
        yield jax.block_until_ready(pending)


def _progress(name: str, loader: CropLoader, start: int) -> Progress:
    start = loader.images_done(start)
    return Progress(name, len(loader.indices), "images", start=start, quiet=jax.process_index() > 0)
