"""Where a step's metrics are while it goes on, and since when the devices are idle."""

import math
import threading
import time

import numpy as np
import pytest

from inception_jax import inflight


@pytest.fixture
def in_flight():
    in_flight = inflight.InFlight()
    yield in_flight
    in_flight.close()


class Slow:
    """An array of a step that ends when it is told to."""

    def __init__(self, value):
        self.value, self.end = value, threading.Event()

    def __array__(self, *_, **__):
        assert self.end.wait(10)
        return np.asarray(self.value)


def test_a_step_is_taken_once(in_flight):
    assert in_flight.take() is None
    in_flight.launched(3, {"loss": 2.5})
    step, metrics, ended = in_flight.take()
    assert (step, metrics) == (3, {"loss": 2.5}) and ended <= time.monotonic()
    assert in_flight.take() is None


def test_the_devices_are_idle_from_the_end_of_the_step_on(in_flight):
    assert in_flight.idle_since() == -math.inf
    loss = Slow(np.float32(1.0))
    in_flight.launched(1, {"loss": loss})
    assert in_flight.idle_since() == math.inf
    before = time.monotonic()
    loss.end.set()
    while in_flight.idle_since() == math.inf:
        time.sleep(0.001)
    ended = in_flight.idle_since()
    assert before <= ended <= time.monotonic()
    assert in_flight.take() == (1, {"loss": 1.0}, ended) and in_flight.idle_since() == -math.inf


def test_an_error_of_the_step_is_not_lost(in_flight):
    in_flight.launched(1, {"loss": "no number"})
    with pytest.raises(ValueError, match="no number"):
        in_flight.take()
