"""Contestants: steps that can be taken again and again."""

import dataclasses
from collections.abc import Callable
from typing import Any

from inception_jax.system.memory import peak_megabytes


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A step that can be taken again and again."""

    launch: Callable[[], Any]
    """Begins a step; what it gives is for `wait`."""
    wait: Callable[[Any], float]
    """Waits for a step's end; a number of its result, so that one which is not finite is seen."""
    units: float
    """Images of a step, or operations of a product."""
    device: str
    """The hardware, by the name its library gives it."""
    peak_megabytes: Callable[[], float]
    """The most memory held so far, in 1,000,000 bytes: the device's, or on the CPU the process's."""
    parameters: int | None = None
    """Number of trained parameters; None for a product, which has none."""
    multiply_adds: int | None = None
    """Multiply-adds of one image forward; only ours knows them."""


def jax_peak_megabytes() -> float:
    """The most memory that XLA has held on the device; on the CPU, of which it does not say, the process."""
    import jax

    statistics = jax.devices()[0].memory_stats() or {}
    return statistics["peak_bytes_in_use"] / 1e6 if "peak_bytes_in_use" in statistics else peak_megabytes()
