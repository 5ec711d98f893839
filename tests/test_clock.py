"""Clock of a run and speed of its steps, with a fake system clock."""

import pytest

from inception_jax.train import clock


@pytest.fixture
def now(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: now[0])
    return now


def test_the_clock_excludes_compilation_and_continues_from_earlier_time(now):
    running = clock.Clock(spent=50.0)
    now[0] += 30.0
    running.exclude(20.0)
    assert running.now() == 60.0
    now[0] += 5.0
    assert running.now() == 65.0 and running.at(1032.0) == 62.0


def test_the_speed_of_a_window():
    window = clock.Window(step=10, begin=100.0, waited=1.0)
    assert window.speed(14, 108.0, batch_size=16) == {"images_per_second": 8.0, "data_wait_share": 0.125}


def test_a_window_without_a_step_has_no_speed():
    assert clock.Window(step=10, begin=100.0).speed(10, 108.0, batch_size=16) == {}
    assert clock.Window(step=10, begin=100.0).speed(11, 100.0, batch_size=16) == {}
