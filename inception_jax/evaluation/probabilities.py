"""Trained networks over the crops of images: the mean of each one's softmax over each image's crops."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from inception_jax import build, hosts, steps
from inception_jax.config import DataConfig
from inception_jax.data import Protocol, colour, crop_batches
from inception_jax.data.cores import available_cores
from inception_jax.data.crop_batches import batch_count
from inception_jax.data.preparation import Preparation
from inception_jax.data.sources import Source
from inception_jax.errors import Preempted, UserError
from inception_jax.evaluation.progress import Progress
from inception_jax.evaluation.tally import Tally
from inception_jax.evaluation.trained import Trained
from inception_jax.evaluation.unfinished import Unfinished
from inception_jax.models.network import Network
from inception_jax.preemption import Preemption

# Through the network at once, on each device.
_CROPS_PER_CPU, _CROPS_PER_ACCELERATOR = 16, 64

_Step = Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Show:
    """Which images networks are shown, and how."""

    source: Source
    indices: np.ndarray
    """int [N]: which of the source's images."""
    protocol: Protocol
    """Which crops of each."""
    rows: int
    """Views per step over all devices of all processes."""
    data: DataConfig
    """How images are read: threads, prefetch, on_error."""

    @property
    def batches(self) -> int:
        """How many there are."""
        count = len(self.indices)
        return batch_count(count, protocol=self.protocol, rows=self.rows, process_count=jax.process_count())

    def begin(self, prepared: Preparation, start: int) -> Generator[dict[str, np.ndarray], None, None]:
        """This process's share of the batches from `start` on, for networks with this preparation."""
        return crop_batches(
            self.source,
            protocol=self.protocol,
            image_size=prepared.image_size,
            central_fraction=prepared.central_fraction,
            resize=prepared.resize,
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

    def images_in(self, batches: int) -> int:
        """How many images are complete after so many batches."""
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
    members: Sequence[Trained], show: Show, *, unfinished: Unfinished | None, preemption: Preemption
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the members say of the images.

    Args:
      members: the networks, which know as many classes as the source.
      show: the images.
      unfinished: where the first process keeps what is done, and has kept it.
      preemption: with an open context, SIGTERM ends the evaluation after its step.

    Returns:
      Which of `show.indices` were seen (the others were skipped as broken), their labels, and the probabilities,
      float32 [members, seen, classes]; in the first process. The others help, and know of nothing seen.

    Raises:
      UserError: an image is broken.
      Preempted: SIGTERM came; what was done is kept.
    """
    sums = np.zeros((len(members), len(show.indices), show.source.num_classes), np.float32)
    seen, labels = np.arange(0), np.zeros(0, np.int32)
    groups = _passes(members, show.protocol)
    for number, group in enumerate(groups):
        tally = Tally([sums[place] for place in group], show.protocol.views)
        start = _restore(unfinished, number, tally)
        name = "evaluation" if len(groups) == 1 else f"evaluation, pass {number + 1} of {len(groups)}"
        with contextlib.ExitStack() as opened:
            batches = opened.enter_context(contextlib.closing(show.begin(members[group[0]].prepared, start)))
            progress = opened.enter_context(contextlib.closing(_progress(name, show, start)))
            networks = [_on_devices(members[place], show.protocol.mirrored) for place in group]
            for done, outputs in enumerate(_one_late(networks, batches), start + 1):
                if jax.process_index() == 0:
                    tally.add(outputs)
                progress.show(show.images_in(done))
                # Rising over the passes too, which several processes need to agree on a step.
                stop = preemption.reached(number * show.batches + done)
                if unfinished and (stop or done == show.batches or unfinished.due()):
                    unfinished.keep(number, done, tally)
                if stop:
                    raise Preempted(done)
        if jax.process_index() == 0:
            seen, labels = tally.finish()
    return seen, labels, sums if len(seen) == len(show.indices) else sums[:, seen]


def _passes(members: Sequence[Trained], protocol: Protocol) -> list[list[int]]:
    """The members, by their places, in groups that are shown the same crops: cut once for all of a group."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, member in enumerate(members):
        prepared = member.prepared
        # The central fraction is of the single crop alone.
        fraction = prepared.central_fraction if protocol.crops == 1 else None
        groups.setdefault((prepared.image_size, fraction, prepared.resize), []).append(place)
    return list(groups.values())


def _restore(unfinished: Unfinished | None, number: int, tally: Tally) -> int:
    """How many batches of a pass are done already, in all processes alike; the first one's tally has them."""
    return hosts.first_decides(lambda: unfinished.restore(number, tally) if unfinished else 0) or 0


def _on_devices(member: Trained, mirrored: bool) -> _Step:
    prepared = member.prepared
    step = _compiled_once(member.network, prepared.mean, prepared.std, mirrored, prepared.label_offset)
    return functools.partial(step, steps.place(member.variables))


@functools.cache  # an ensemble may have a network several times
def _compiled_once(
    network: Network, mean: tuple[float, ...], std: tuple[float, ...], mirrored: bool, label_offset: int
) -> Callable[..., Any]:
    return steps.parallel(
        steps.predict_step,
        model=network,
        prepare=functools.partial(colour.to_network_range, mean=mean, std=std),
        mirrored=mirrored,
        label_offset=label_offset,
    )


def _one_late(networks: Sequence[_Step], batches: Iterable[Mapping[str, np.ndarray]]) -> Iterator[list[Any]]:
    """What the networks say of each batch, finished, one batch late: so the devices always have the next."""
    pending = None
    for batch in batches:
        launched = [network(batch) for network in networks]
        if pending is not None:
            yield jax.block_until_ready(pending)
        pending = launched
    if pending is not None:
        yield jax.block_until_ready(pending)


def _progress(name: str, show: Show, start: int) -> Progress:
    return Progress(name, start=show.images_in(start), total=len(show.indices), quiet=jax.process_index() > 0)
