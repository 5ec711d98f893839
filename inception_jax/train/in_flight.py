"""Metrics of the step in flight: the one that the devices run while the host continues."""

import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np


class InFlight:
    """Fetches each step's metrics in a background thread, which records when the devices became idle."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "metrics")
        self._step = 0
        self._future: Future[tuple[dict[str, float], float]] | None = None

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Stores the metrics of the step just launched, replacing those of the previous step."""
        self._step, self._future = step, self._pool.submit(_fetch, metrics)

    def pop(self) -> tuple[int, dict[str, float], float] | None:
        """Waits for the step in flight; returns its number, metrics and end time, or None if there is none."""
        if self._future is None:
            return None
        (values, ended), self._future = self._future.result(), None
        return self._step, values, ended

    def discard(self) -> None:
        """Discards the step in flight."""
        self._future = None

    def idle_since(self) -> float:
        """End time of the step in flight, by time.monotonic: inf while it runs, -inf if there is none."""
        if self._future is None:
            return -math.inf
        return self._future.result()[1] if self._future.done() else math.inf

    def close(self) -> None:
        """Waits for the step in flight."""
        self._pool.shutdown()


def _fetch(metrics: Mapping[str, jax.Array]) -> tuple[dict[str, float], float]:
    return {name: float(np.asarray(value)) for name, value in metrics.items()}, time.monotonic()
