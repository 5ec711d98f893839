"""Roofline of a step: max(operations / peak operations per second, bytes / memory bandwidth).

There are two counts of the work. The analytical one follows from the architecture. The compiled one is XLA's for
its program: more bytes, because a map goes to memory between any two operations that are not fused; and up to a
tenth fewer operations, because XLA leaves out taps on a padded border, which a table of multiply-adds counts.
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
    """Arithmetic and memory rates of a machine, over all its devices."""

    flops_per_second: float
    """A multiplication and an addition are two."""
    bytes_per_second: float
    """Memory bandwidth, reads and writes both counted."""


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Work of one step over all devices, and its minimum time."""

    operations: float
    bytes: float
    seconds: float
    """Minimum time: the greater of the two at the machine's rates."""
    limit: Literal["operations", "bytes"]
    """The bound that determines the minimum time."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds on a step's time on this machine."""

    measured: Rates
    """Rates measured on the devices in the same run."""
    rates: Rates
    """Rates used for the rooflines: the card's, where its numbers in this dtype are known, else the measured ones."""
    analytical: Roofline
    compiled: Roofline


# Of one card, in bfloat16. What its arithmetic reaches in dense products, not what is printed on it.
_KNOWN_CARDS = {"NVIDIA H100 80GB HBM3": Rates(790e12, 3e12)}

_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Sizes of the operations that measure a backend's rates."""

    side: int
    """Side of the square matrices that are multiplied."""
    numbers: int
    """Number of float32 elements of the array that is read and written."""
    launches: int
    """Number of launches per measurement, so that launching is negligible."""


_CPU, _ACCELERATOR = _Sizes(4096, 2**26, 1), _Sizes(8192, 2**28, 20)


def measured_rates(dtype: str) -> Rates:
    """Measured rates of a large matrix product in `dtype` and of reading and writing a large array, on all devices.

    The median of five. The product has the precision that JAX gives the networks' convolutions, too: on cards that have
    TF32, float32 is that.
    """
    sizes = _CPU if jax.default_backend() == "cpu" else _ACCELERATOR
    return Rates(_matmul_rate(dtype, sizes), _memory_rate(sizes))


def known_rates(dtype: str) -> Rates | None:
    """Rates of these devices by the table of this file; None where they, or the dtype, are not in it."""
    card = _KNOWN_CARDS.get(jax.local_devices()[0].device_kind) if dtype == "bfloat16" else None
    count = jax.local_device_count()
    return card and Rates(card.flops_per_second * count, card.bytes_per_second * count)


def limits(
    program: Any, model: Network, *, image_size: int, batch_size: int, operations: int, held: int, train: bool
) -> Limits:
    """Measures the rates and computes both rooflines of one step over all devices.

    Args:
      program: the compiled step.
      model: with its dtype.
      image_size: side of an image in pixels.
      batch_size: over all devices.
      operations: of one image, by the architecture.
      held: bytes of the state, or of the variables, on one device.
      train: whether there is a backward pass and an update.
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
    """Bytes that must pass to or from memory in a step, by the network's architecture.

    Every device reads what it holds, and writes it when it trains; and every convolution's input and output pass once,
    in training once in each direction. BN, ReLU, pools and concatenations cost nothing here, as if all were part of a
    convolution; and neither does the gradient of a kernel, which reads the input again, as if that were still at hand.
    """
    return (held + activation_bytes) * (2 if train else 1)


def compiled(program: Any) -> tuple[float, float]:
    """(operations, bytes) of a step over all devices, by XLA's count of the compiled program.

    On a CPU they are 1-10 % fewer than analytical ones at 149 pixels, where many maps are small and borders count;
    calls into a GPU's libraries may count as nothing, which has not been tried.
    """
    cost, count = program.cost_analysis(), jax.local_device_count()
    return count * cost["flops"], count * cost["bytes accessed"]


def roofline(operations: float, bytes_moved: float, rates: Rates) -> Roofline:
    """The roofline for so many operations and bytes at these rates."""
    arithmetic, memory = operations / rates.flops_per_second, bytes_moved / rates.bytes_per_second
    return Roofline(operations, bytes_moved, max(arithmetic, memory), "operations" if arithmetic >= memory else "bytes")


def activation_count(model: Network, image_size: int) -> int:
    """Number of elements in the inputs and outputs of all convolutions and of the classifier for one image."""
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
    # In place: memory that is new costs the system's time, which is no part of a step.
    increment = jax.jit(lambda array: array + 1, donate_argnums=0)

    def launch() -> None:
        nonlocal arrays
        for _ in range(sizes.launches):
            arrays = [increment(array) for array in arrays]
        jax.block_until_ready(arrays)

    return len(arrays) * sizes.launches * 2 * 4 * sizes.numbers / _median_seconds(launch)


def _median_seconds(launch: Any) -> float:
    launch()  # compiles
    taken = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        launch()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)
