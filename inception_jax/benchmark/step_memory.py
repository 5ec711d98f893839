"""Memory of training, predicted from the compiled training step: nothing is trained.

The prediction is of the compiler that made the program, on the backend at hand. What a library takes beside it is not
in it: a GPU's workspaces of cuDNN, the images that wait, Python itself.
"""

import dataclasses
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
    """Memory of training a network on one device; a batch is the images of one device."""

    device: str
    """Device that the step was compiled for."""
    dtype: str
    remat: bool
    batches: tuple[int, int]
    """The two batch sizes that the step was compiled with."""
    step_bytes: tuple[int, int]
    """Memory of the step with each of the batch sizes."""
    fixed_bytes: float
    """Memory independent of the batch: parameters, their average, the optimiser's state, gradients."""
    bytes_per_image: float
    """Memory added by each image: mostly activations kept for the backward pass."""
    analytical_bytes_per_image: int
    """Activations of one image that the backward pass reads, see `analytical_activation_bytes`."""
    largest_batches: dict[str, int]
    """The largest batch by gigabytes, of 1,000,000,000 bytes; 0 where not even one image fits."""


def predict(experiment: Experiment, batches: Sequence[int], gigabytes: Sequence[float]) -> Memory:
    """Fits a line through the memory of two batch sizes, and predicts the largest batches from it.

    Args:
      experiment: what would be trained; `train.batch_size` is not looked at.
      batches: two sizes, the second larger, in images on each device; both large enough that activations, not the
        optimiser's work, make the step's peak.
      gigabytes: memories of 1,000,000,000 bytes each.

    Raises:
      UserError: a value is out of its range, or the larger batch takes no more memory than the smaller one.
    """
    less, more = batches
    if not 1 <= less < more:
        raise UserError(f"the batches are {less} and {more}; they must rise, from 1 or more.")
    if not all(size > 0 for size in gigabytes):  # NaN too
        raise UserError("every memory must be of more than 0 gigabytes.")
    low, high = step_bytes(experiment, less), step_bytes(experiment, more)
    if high <= low:
        raise UserError(f"batches of {less} and {more} take the same memory; give larger ones.")
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
    """Bytes on each device while it trains on so many images: arguments, results and all between; compiles."""
    devices, size = jax.local_device_count(), experiment.data.image_size
    experiment = dataclasses.replace(
        experiment, train=dataclasses.replace(experiment.train, batch_size=images * devices)
    )
    config.check(experiment)
    setup = build.build(experiment)
    labels = jax.ShapeDtypeStruct((devices, images), np.int32)
    batch = {
        "images": jax.ShapeDtypeStruct((devices, images, size, size, 3), np.uint8),
        "labels": labels,
        "skipped": labels,
    }
    lowered = setup.train_step.lower(setup.state_shapes(), batch)
    # On a CPU buffers are assigned before LLVM, which need not optimise what will not be run. A GPU's level is left as
    # it is, because there it has a say in which algorithms, and so which workspaces, are taken.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    parts: Any = lowered.compile(compiler_options=quick).memory_analysis()
    donated = parts.alias_size_in_bytes
    return parts.argument_size_in_bytes + parts.output_size_in_bytes - donated + parts.temp_size_in_bytes


def analytical_activation_bytes(model: Network, image_size: int) -> int:
    """Bytes of one image that the backward pass reads: the input of each stage, convolution and BN, once each.

    With `remat` these are what goes into the stages, and the rest of the one stage that has the most. What goes into
    ReLU, concatenations and pools is not counted: their gradients can be had from what comes next.
    """
    calls = [
        call
        for call in layer_calls(model, image_size, train=True)
        if len(call.path) == 1 or issubclass(call.kind, nn.Conv | nn.BatchNorm)
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
    yield f"training on each device, {how}: what {m.device}'s compiler gives for batches of {less} and {more}"
    yield f"{'each image':<18}{m.bytes_per_image / 1e6:>14,.1f} MB ({m.analytical_bytes_per_image / 1e6:,.1f} by hand)"
    yield f"{'all else':<18}{m.fixed_bytes / 1e6:>14,.1f} MB"
    for size, batch in m.largest_batches.items():
        yield f"{f'{size} GB':<18}{batch:>14,} images at most"
