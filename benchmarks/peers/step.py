"""Contestant: a step that can be run repeatedly."""

import dataclasses
from collections.abc import Callable
from typing import Any

from inception_jax.system.memory import peak_megabytes


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A step that can be run repeatedly."""

    launch: Callable[[], Any]
    """Launches a step; the result is the argument of `wait`."""
    wait: Callable[[Any], float]
    """Waits for a step to end and returns a number from its result, which must be finite."""
    units: float
    """Images per step, or operations per matrix product."""
    device: str
    """The library's name of the device."""
    peak_megabytes: Callable[[], float]
    """Peak memory so far in 10^6 bytes: of the device, or on a CPU of the process."""
    parameters: int | None = None
    """Number of trained parameters; None for a matrix product."""
    multiply_adds: int | None = None
    """Multiply-adds of a forward pass per image; known for ours only."""


def jax_peak_megabytes() -> float:
    """Peak memory of XLA on the device, or of the process on a CPU, where XLA does not report it."""
    import jax

    statistics = jax.devices()[0].memory_stats() or {}
    return statistics["peak_bytes_in_use"] / 1e6 if "peak_bytes_in_use" in statistics else peak_megabytes()
