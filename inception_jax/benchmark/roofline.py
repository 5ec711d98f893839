"""Roofline of a step: max(operations / peak operations per second, bytes / memory bandwidth).

The work is counted in two ways. The analytical count follows from the architecture. The compiled count is XLA's, of
its program: more bytes, because maps pass through memory between operations that are not fused, and up to a tenth
fewer operations, because XLA does not count kernel taps on padding.
"""

import dataclasses
import statistics
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp

from inception_jax.models.calls import layer_calls
from inception_jax.models.network import Network


@dataclasses.dataclass(frozen=True)
class Rates:
    """Arithmetic rate and memory bandwidth of a machine, over all its devices."""

    flops_per_second: float
    """A multiply-add counts as two operations."""
    bytes_per_second: float
    """Memory bandwidth, counting both reads and writes."""


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Work of one step over all devices, and its minimum time."""

    operations: float
    bytes: float
    seconds: float
    """Minimum time: the larger of arithmetic and memory time at the machine's rates."""
    limit: Literal["operations", "bytes"]
    """The bound that determines the minimum time."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds on a step's time on this machine."""

    measured: Rates
    """Rates measured on the devices in the same run."""
    rates: Rates
    """Rates used for the rooflines: the GPU's if known for this dtype, else the measured ones."""
    analytical: Roofline
    compiled: Roofline


# Rates of one GPU in bfloat16; the arithmetic rate is that reached by dense products, not the nominal one.
_KNOWN_GPUS = {"NVIDIA H100 80GB HBM3": Rates(790e12, 3e12)}

_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Sizes of the operations that measure a backend's rates."""

    side: int
    """Side of the square matrices to multiply."""
    numbers: int
    """Number of float32 elements of the array to read and write."""
    launches: int
    """Number of launches per measurement, enough to make launching negligible."""


_CPU, _ACCELERATOR = _Sizes(4096, 2**26, 1), _Sizes(8192, 2**28, 20)


def measured_rates(dtype: str) -> Rates:
    """Median rates of a large matrix product in `dtype` and of reading and writing a large array, on all devices.

    The product has JAX's default precision, as the networks' convolutions have: on GPUs with TF32, float32 is TF32.
    """
    sizes = _CPU if jax.default_backend() == "cpu" else _ACCELERATOR
    return Rates(_matmul_rate(dtype, sizes), _memory_rate(sizes))


def known_rates(dtype: str) -> Rates | None:
    """Known rates of the devices of this machine; None if the devices or the dtype are not in the table."""
    gpu = _KNOWN_GPUS.get(jax.local_devices()[0].device_kind) if dtype == "bfloat16" else None
    count = jax.local_device_count()
    return gpu and Rates(gpu.flops_per_second * count, gpu.bytes_per_second * count)


def limits(
    program: Any, model: Network, *, image_size: int, batch_size: int, operations: int, held: int, train: bool
) -> Limits:
    """Measures the rates and computes both rooflines of one step over all devices.

    Args:
      program: the compiled step.
      model: the network.
      image_size: side of an image in pixels.
      batch_size: images over all devices.
      operations: analytical operations per image.
      held: bytes of the state, or of the variables, on one device.
      train: whether the step includes a backward pass and an update.
    """
    dtype = jnp.dtype(model.dtype)
    measured = measured_rates(dtype.name)
    rates = known_rates(dtype.name) or measured
    activation_bytes = batch_size * activation_count(model, image_size) * dtype.itemsize
    bytes_moved = analytical_bytes(jax.local_device_count() * held, activation_bytes, train=train)
    return Limits(
        measured, rates, roofline(batch_size * operations, bytes_moved, rates), roofline(*compiled(program), rates)
    )


def analytical_bytes(held: int, activation_bytes: int, *, train: bool) -> int:
    """Minimum bytes moved to or from memory in a step, by the network's architecture.

    Each device reads what it holds and, in training, writes it. Each convolution's input and output pass once, in
    training once in the forward and once in the backward pass. BN, ReLU, pooling and concatenation are taken as fused
    with a convolution, and the input for a kernel's gradient as still in cache.
    """
    return (held + activation_bytes) * (2 if train else 1)


def compiled(program: Any) -> tuple[float, float]:
    """(operations, bytes) of a step over all devices, by XLA's count of the compiled program.

    At 149 pixels, where maps are small and borders matter, a CPU's count of operations is 1-10 % below the analytical
    one. Calls into a GPU's libraries may not be counted; this was not tried.
    """
    cost, count = program.cost_analysis(), jax.local_device_count()
    return count * cost["flops"], count * cost["bytes accessed"]


def roofline(operations: float, bytes_moved: float, rates: Rates) -> Roofline:
    """Roofline of a number of operations and bytes at the given rates."""
    arithmetic, memory = operations / rates.flops_per_second, bytes_moved / rates.bytes_per_second
    return Roofline(operations, bytes_moved, max(arithmetic, memory), "operations" if arithmetic >= memory else "bytes")


def activation_count(model: Network, image_size: int) -> int:
    """Number of elements in the inputs and outputs of all convolutions and of the classifier, per image."""
    return sum(call.input.size + call.output.size for call in layer_calls(model, image_size) if call.kernel)


def _matmul_rate(dtype: str, sizes: _Sizes) -> float:
    matrices = [
        jax.device_put(jax.random.normal(jax.random.key(0), (sizes.side, sizes.side), dtype), device)
        for device in jax.local_devices()
    ]
    matmul = jax.jit(jnp.matmul)

    def launch() -> None:
        for _ in range(sizes.launches):
            results = [matmul(matrix, matrix) for matrix in matrices]
        jax.block_until_ready(results)

    return len(matrices) * sizes.launches * 2 * sizes.side**3 / _median_seconds(launch)


def _memory_rate(sizes: _Sizes) -> float:
    arrays = [jax.device_put(jnp.zeros(sizes.numbers, jnp.float32), device) for device in jax.local_devices()]
    # In place, because mapping new memory takes time that a step does not spend.
    increment = jax.jit(lambda array: array + 1, donate_argnums=0)

    def launch() -> None:
        nonlocal arrays
        for _ in range(sizes.launches):
            arrays = [increment(array) for array in arrays]
        jax.block_until_ready(arrays)

    return len(arrays) * sizes.launches * 2 * 4 * sizes.numbers / _median_seconds(launch)


def _median_seconds(launch: Any) -> float:
    launch()  # compiles
    durations = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        launch()
        durations.append(time.perf_counter() - begin)
    return statistics.median(durations)
