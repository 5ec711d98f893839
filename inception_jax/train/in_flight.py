"""The step that the devices are at while the host goes on."""

import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np


class InFlight:
    """Fetches each step's metrics in a thread of its own, so that it is known when the devices fell idle."""

    def __init__(self) -> None:
        """With no step under way."""
        self._pool = ThreadPoolExecutor(1, "metrics")
        self._step = 0
        self._future: Future[tuple[dict[str, float], float]] | None = None

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of the step that has just been launched, replacing those of the one before."""
        self._step, self._future = step, self._pool.submit(_fetch, metrics)

    def pop(self) -> tuple[int, dict[str, float], float] | None:
        """The newest step, its metrics, waited for, and when the devices ended it; None where it has been taken."""
        if self._future is None:
            return None
        (values, ended), self._future = self._future.result(), None
        return self._step, values, ended

    def discard(self) -> None:
        """Forgets the step under way."""
        self._future = None

    def idle_since(self) -> float:
        """When the devices ended the newest step, by time.monotonic: inf while it goes on, -inf where it was taken."""
        if self._future is None:
            return -math.inf
        return self._future.result()[1] if self._future.done() else math.inf

    def close(self) -> None:
        """Waits for the step under way."""
        self._pool.shutdown()


def _fetch(metrics: Mapping[str, jax.Array]) -> tuple[dict[str, float], float]:
    return {name: float(np.asarray(value)) for name, value in metrics.items()}, time.monotonic()
