"""Batch sizes and replicas that fit the memory.

Batch sizes are estimated from the shapes of the network, without compiling it: within about a quarter of what XLA needs
on a CPU, and mostly above it. `step_memory` has the compiler's own numbers, on which `with_replicas` decides.
"""

import dataclasses
import math
from collections.abc import Callable

import jax

from inception_jax import build
from inception_jax.benchmark import step_memory
from inception_jax.benchmark.step_memory import analytical_activation_bytes
from inception_jax.config import Experiment, with_fields
from inception_jax.errors import UserError
from inception_jax.models.calls import layer_calls
from inception_jax.models.initialize import variable_shapes
from inception_jax.models.network import Network
from inception_jax.system import hosts
from inception_jax.system.memory import machine_bytes

# Memory per image over the analytical bytes: XLA for the CPU takes 1.5 to 1.7 times as much, with remat 0.9 to 1.04
# (docs/performance.md, "Memory").
_PLAIN, _REMAT = 1.7, 1.05
# Parameters, their average, mean square, momentum and gradient.
_COPIES_IN_TRAINING = 5
# The analytical bytes over the memory from which a step is refused before it is compiled. Large, because a compiler may
# recompute rather than keep: with remat it takes 0.9 of them.
_HOPELESS = 2.0
# Outside the compiler's buffers: images on the host, Python, scratch memory of convolutions.
_USABLE = 0.9
# More than any network takes per byte of its float32 input at width 1 (v4: 132 analytical bytes). Counting exactly
# traces the network, which takes seconds at full size.
_AT_MOST_PER_INPUT_BYTE = 400


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Memory of a step on one device."""

    fixed_bytes: float
    """Independent of the batch."""
    bytes_per_image: float

    def step_bytes(self, images: int) -> float:
        """Memory of a step on `images` images per device."""
        return self.fixed_bytes + images * self.bytes_per_image

    def images_in(self, memory: float) -> int:
        """Largest number of images per device that fits `memory` bytes, 0 or more."""
        return max(0, math.floor((_USABLE * memory - self.fixed_bytes) / self.bytes_per_image))


def device_bytes() -> float:
    """Memory of one device of this process; CPU devices share the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or machine_bytes() / jax.local_device_count()


def training(experiment: Experiment, *, remat: bool | None = None) -> Estimate:
    """Memory of a training step of an experiment; `remat` replaces its own."""
    model = build.make_model(experiment)
    if remat is not None:
        model = model.clone(remat=remat)
    if experiment.train.unfreeze_epoch is None:
        model = model.clone(frozen=build.frozen_stages(model, experiment.train.freeze))
    size = experiment.data.image_size
    forward = inference(model, size)
    backward = (_REMAT if model.remat else _PLAIN) * analytical_activation_bytes(model, size)
    return Estimate(_COPIES_IN_TRAINING * forward.fixed_bytes, max(forward.bytes_per_image, backward))


def inference(model: Network, image_size: int) -> Estimate:
    """Memory of a forward pass: the parameters, and twice the largest input and output of a layer."""
    calls = layer_calls(model, image_size)
    largest = max(sum(a.size * a.dtype.itemsize for a in (call.input, call.output)) for call in calls)
    return Estimate(_parameter_bytes(model, image_size), 2 * largest)


def check(experiment: Experiment, warn: Callable[[str], None]) -> None:
    """Refuses a training step whose memory is out of all proportion, before minutes of compilation.

    Calls `warn` with one that may not fit.

    Raises:
      UserError: the bytes that the backward pass must read are more than twice the memory.
    """
    images, memory = _images_at_once(experiment), device_bytes()
    input_bytes = 4 * 3 * experiment.data.image_size**2
    if images * input_bytes * _AT_MOST_PER_INPUT_BYTE * max(1.0, experiment.model.width) < _USABLE * memory / 2:
        return
    estimate = training(experiment)
    least = estimate.step_bytes(images) / (_REMAT if experiment.train.remat else _PLAIN)
    if least > _HOPELESS * memory:
        raise UserError(f"{for_training('train.batch_size', experiment, estimate)}.")
    if images > estimate.images_in(memory):
        warn(f"warning: {for_training('train.batch_size', experiment, estimate)}")


def with_replicas(experiment: Experiment, report: Callable[[str], None]) -> Experiment:
    """The experiment with the fewest replicas whose compiled step fits the memory in place of `auto`.

    `report` is told the number. Process 0 decides for all.

    Raises:
      UserError: not even replicas of one image fit.
    """
    if experiment.train.replicas != "auto":
        return experiment
    batch, devices = experiment.train.batch_size, jax.device_count()
    if experiment.model.bn_statistics == "global":
        raise UserError(
            "model.bn_statistics is 'global', with which train.replicas 'auto' does not work; leave it out."
        )
    chosen = hosts.process_zero_decides(lambda: _fewest_replicas(experiment))
    if chosen is None:
        raise UserError(f"{for_training('train.batch_size', with_fields(experiment, {'train.replicas': batch}))}.")
    report(
        f"train.replicas {chosen}: the fewest of {batch // chosen} images each whose step fits the memory of a device, "
        f"{device_bytes() / 1e9:,.1f} GB ({chosen // devices} on each, one after another)"
    )
    return with_fields(experiment, {"train.replicas": chosen})


def _fewest_replicas(experiment: Experiment) -> int | None:
    memory, estimate = _USABLE * device_bytes(), training(experiment)
    factor = _REMAT if experiment.train.remat else _PLAIN
    for replicas in _possible_replicas(experiment.train.batch_size):
        # Spares the compilation of what cannot fit, which can take minutes.
        if estimate.step_bytes(experiment.train.batch_size // replicas) / factor > _HOPELESS * memory:
            continue
        if step_memory.compiled_bytes(with_fields(experiment, {"train.replicas": replicas})) <= memory:
            return replicas
    return None


def _possible_replicas(batch: int) -> list[int]:
    """Numbers of replicas of a batch, in ascending order: multiples of the devices that divide it."""
    devices = jax.device_count()
    return [replicas for replicas in range(devices, batch + 1, devices) if batch % replicas == 0]


def for_training(field: str, experiment: Experiment, estimate: Estimate | None = None) -> str:
    """Clause on a training step that does not fit, with the batch that would, and what remat and replicas would change.

    Args:
      field: name of the batch size, by which it is set.
      experiment: the experiment, with its batch size.
      estimate: its estimate, if there is one already.
    """
    batch, estimate = experiment.train.batch_size, estimate or training(experiment)
    at_once = _images_at_once(experiment)
    clause = sentence(field, batch, experiment.data.image_size, estimate, at_once=at_once)
    if not experiment.train.remat:
        with_remat = training(experiment, remat=True)
        clause += f", {_fitting(with_remat, batch // at_once)} with --train.remat"
    limit = min(estimate.images_in(device_bytes()), at_once - 1)
    fitting = [replicas for replicas in _possible_replicas(batch) if batch // replicas <= limit]
    if fitting and experiment.model.bn_statistics == "replica":
        clause += f"; or this batch in replicas, one after another, with --train.replicas {fitting[0]}"
    return clause


def _images_at_once(experiment: Experiment) -> int:
    """Images that a device works on at once: those of a replica."""
    replicas = experiment.train.replicas or jax.device_count()
    assert isinstance(replicas, int)
    return -(-experiment.train.batch_size // replicas)


def sentence(
    field: str,
    batch: int,
    image_size: int,
    estimate: Estimate,
    *,
    devices: int | None = None,
    at_once: int | None = None,
) -> str:
    """Clause on a step of `batch` images that does not fit, with the batch that would.

    `at_once` are the images that a device works on at once; None is its part of the batch, over `devices` (all).
    """
    devices = jax.device_count() if devices is None else devices
    images, memory = -(-batch // devices) if at_once is None else at_once, device_bytes()
    return (
        f"{field} is {batch}: a step on {images} images of {image_size} pixels needs about "
        f"{estimate.step_bytes(images) / 1e9:,.1f} GB of memory per device, which has {memory / 1e9:,.1f}; "
        f"{_fitting(estimate, -(-batch // images), batch)} would fit"
    )


def _fitting(estimate: Estimate, parts: int, batch: int | None = None) -> str:
    """The number of images, in so many equal parts, that fits; less than a `batch` that did not."""
    fitting = parts * estimate.images_in(device_bytes())
    if batch is not None and fitting >= batch:  # Others hold a part of the memory.
        fitting = batch // 2 // parts * parts
    return f"about {fitting:,}" if fitting else "not even one per device"


def _parameter_bytes(model: Network, image_size: int) -> int:
    leaves = jax.tree.leaves(variable_shapes(model, image_size)["params"])
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
