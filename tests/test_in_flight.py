"""Metrics of the step in flight, and the time since which the devices are idle."""

import math
import threading
import time

import numpy as np
import pytest

from inception_jax.train import in_flight


@pytest.fixture
def flight():
    flight = in_flight.InFlight()
    yield flight
    flight.close()


class Slow:
    """An array that is ready once `end` is set."""

    def __init__(self, value):
        self.value, self.end = value, threading.Event()

    def __array__(self, *_, **__):
        assert self.end.wait(10)
        return np.asarray(self.value)


def test_a_step_is_popped_once(flight):
    assert flight.pop() is None
    flight.push(3, {"loss": 2.5})
    step, metrics, ended = flight.pop()
    assert (step, metrics) == (3, {"loss": 2.5}) and ended <= time.monotonic()
    assert flight.pop() is None


def test_the_devices_are_idle_after_the_end_of_the_step(flight):
    assert flight.idle_since() == -math.inf
    loss = Slow(np.float32(1.0))
    flight.push(1, {"loss": loss})
    assert flight.idle_since() == math.inf
    before = time.monotonic()
    loss.end.set()
    while flight.idle_since() == math.inf:
        time.sleep(0.001)
    ended = flight.idle_since()
    assert before <= ended <= time.monotonic()
    assert flight.pop() == (1, {"loss": 1.0}, ended) and flight.idle_since() == -math.inf


def test_an_error_of_the_step_is_not_lost(flight):
    flight.push(1, {"loss": "no number"})
    with pytest.raises(ValueError, match="no number"):
        flight.pop()
