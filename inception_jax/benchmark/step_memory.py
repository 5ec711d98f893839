"""Memory of training, predicted from the compiled training step without running it.

The prediction is the compiler's, for the current backend. It excludes memory outside the program, such as prefetched
images, Python and workspaces of cuDNN.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from inception_jax import build, config
from inception_jax.config import Experiment
from inception_jax.errors import UserError
from inception_jax.models.calls import layer_calls
from inception_jax.models.network import Network


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of training a network on one device; batch sizes are per device."""

    device: str
    """Device for which the step was compiled."""
    dtype: str
    remat: bool
    batches: tuple[int, int]
    """The two batch sizes with which the step was compiled."""
    step_bytes: tuple[int, int]
    """Memory of the step at each batch size."""
    fixed_bytes: float
    """Memory independent of the batch: parameters, their average, the optimiser's state, gradients."""
    bytes_per_image: float
    """Memory added by each image: mostly activations kept for the backward pass."""
    analytical_bytes_per_image: int
    """Activations per image that the backward pass reads, see `analytical_activation_bytes`."""
    largest_batches: dict[str, int]
    """Largest batch size keyed by memory in gigabytes, of 1,000,000,000 bytes; 0 if no image fits."""


def predict(experiment: Experiment, batches: Sequence[int], gigabytes: Sequence[float]) -> Memory:
    """Predicts the largest batch sizes from a linear fit to the memory of two batch sizes.

    Args:
      experiment: experiment to predict for; its `train.batch_size` is ignored.
      batches: two increasing batch sizes per device, large enough that activations, not the optimiser, determine the
        peak memory.
      gigabytes: memory sizes in 1,000,000,000 bytes.

    Raises:
      UserError: a value is out of its range, or the larger batch does not take more memory than the smaller one.
    """
    less, more = batches
    if not 1 <= less < more:
        raise UserError(f"the batch sizes are {less} and {more}; they must be 1 or more, and increasing.")
    if not all(size > 0 for size in gigabytes):  # NaN too
        raise UserError(f"the gigabytes are {', '.join(f'{size:g}' for size in gigabytes)}; each must be above 0.")
    low, high = step_bytes(experiment, less), step_bytes(experiment, more)
    if high <= low:
        raise UserError(f"batches of {less} and {more} take the same memory; give larger batch sizes.")
    slope = (high - low) / (more - less)
    fixed = low - slope * less
    return Memory(
        device=jax.devices()[0].device_kind,
        dtype=experiment.model.dtype,
        remat=experiment.train.remat,
        batches=(less, more),
        step_bytes=(low, high),
        fixed_bytes=fixed,
        bytes_per_image=slope,
        analytical_bytes_per_image=analytical_activation_bytes(
            build.make_model(experiment), experiment.data.image_size
        ),
        largest_batches={f"{size:g}": max(0, math.floor((size * 1e9 - fixed) / slope)) for size in gigabytes},
    )


def step_bytes(experiment: Experiment, images: int) -> int:
    """Bytes per device of a training step on `images` images in one replica, as `compiled_bytes`."""
    train = dataclasses.replace(experiment.train, batch_size=images * jax.device_count(), replicas=None)
    return compiled_bytes(dataclasses.replace(experiment, train=train))


def compiled_bytes(experiment: Experiment) -> int:
    """Bytes per device of an experiment's training step: arguments, results and temporaries. Compiles it."""
    config.check(experiment)
    devices, size = jax.local_device_count(), experiment.data.image_size
    images = experiment.train.batch_size // jax.device_count()
    setup = build.build(experiment)
    labels = jax.ShapeDtypeStruct((devices, images), np.int32)
    batch = {
        "images": jax.ShapeDtypeStruct((devices, images, size, size, 3), np.uint8),
        "labels": labels,
        "skipped": labels,
    }
    lowered = setup.train_step.lower(setup.state_shapes(), batch)
    # On a CPU buffers are assigned before LLVM, which need not optimise a program that is not run. On a GPU the level
    # may affect the choice of algorithms and so their workspaces.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    parts: Any = lowered.compile(compiler_options=quick).memory_analysis()
    donated = parts.alias_size_in_bytes
    return parts.argument_size_in_bytes + parts.output_size_in_bytes - donated + parts.temp_size_in_bytes


def analytical_activation_bytes(model: Network, image_size: int) -> int:
    """Bytes per image that the backward pass reads: the input of each stage, convolution and BN, counted once.

    With `remat` these are the inputs of the stages, and all inputs within the largest stage. Inputs of ReLU,
    concatenation and pooling are not counted, because their gradients follow from their outputs. Nor are frozen stages
    that no trained one precedes.
    """
    stages = [stage for stage, _ in model.stages()]
    forward_only = set(itertools.takewhile(model.frozen.__contains__, stages))
    calls = [
        call
        for call in layer_calls(model, image_size, train=True)
        if (len(call.path) == 1 or issubclass(call.kind, nn.Conv | nn.BatchNorm)) and call.path[0] not in forward_only
    ]
    sizes = {call.input_id: call.input.size * call.input.dtype.itemsize for call in calls}
    if not model.remat:
        return sum(sizes.values())
    inputs = {call.input_id for call in calls if len(call.path) == 1}
    read: dict[str, set[int]] = {}
    for call in calls:
        read.setdefault(call.path[0], set()).add(call.input_id)
    rest = max(sum(sizes[array] for array in arrays - inputs) for arrays in read.values())
    return sum(sizes[array] for array in inputs) + rest


def table(memory: Memory) -> str:
    """The prediction as text."""
    return "\n".join(_lines(memory))


def _lines(m: Memory) -> Iterator[str]:
    less, more = m.batches
    how = f"{m.dtype}, with remat" if m.remat else m.dtype
    yield f"training memory per device, {how}: by the compiler for {m.device}, from batches of {less} and {more}"
    analytical = f"{m.analytical_bytes_per_image / 1e6:,.1f} analytical"
    yield f"{'per image':<18}{m.bytes_per_image / 1e6:>14,.1f} MB ({analytical})"
    yield f"{'fixed':<18}{m.fixed_bytes / 1e6:>14,.1f} MB"
    for size, batch in m.largest_batches.items():
        yield f"{f'{size} GB':<18}{batch:>14,} images at most"
