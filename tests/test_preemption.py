"""SIGTERM: noted and answered after the step, the same step everywhere; twice, or with SIGINT, at once."""

import signal
import socket
import subprocess
import sys
import threading

import pytest
from conftest import PATIENCE

from inception_jax import errors
from inception_jax.system import preemption
from inception_jax.system.preemption import Preemption

# What the loop and the command line do with it, without a network: a step is 20 ms.
LOOP = """
import signal, sys, time
import jax
from inception_jax import errors
from inception_jax.system import preemption

step_seconds = float(sys.argv[1])
if sys.argv[2:]:
    jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
try:
    with preemption.Preemption() as asked:
        for step in range(1, 1000):
            print(step, flush=True)
            time.sleep(step_seconds)
            if asked.reached(step):
                raise errors.Preempted(f"step {step}")
except errors.Preempted as error:
    print(error)
    sys.exit(75)
except KeyboardInterrupt:
    sys.exit(130)
"""


def loop(*arguments):
    command = [sys.executable, "-c", LOOP, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    """The exit code and the printed lines; a loop that does not end is a failure."""
    try:
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, out.splitlines()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands at `now[0]`."""
    now = [100.0]
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
    return now


def test_the_handler_that_was_there_comes_back():
    def mine(number, frame):
        raise AssertionError("not while the context is open")

    before = signal.signal(signal.SIGTERM, mine)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with Preemption() as asked:
            assert signal.getsignal(signal.SIGTERM) not in (mine, before)
            signal.raise_signal(signal.SIGTERM)
            assert asked.reached(1)
        assert signal.getsignal(signal.SIGTERM) is mine and signal.getsignal(signal.SIGINT) is interrupt
        with pytest.raises(ZeroDivisionError), Preemption():
            _ = 1 / 0
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_one_signal_is_answered_after_every_step_from_then_on():
    with Preemption() as asked:
        assert not asked.reached(1)
        signal.raise_signal(signal.SIGTERM)
        assert asked.reached(2) and asked.reached(3)
    with Preemption() as afresh:
        assert not afresh.reached(4)


def test_a_second_signal_within_a_second_is_the_first_and_a_later_one_leaves(clock):
    with Preemption() as asked:
        signal.raise_signal(signal.SIGTERM)
        clock[0] += 1.0
        signal.raise_signal(signal.SIGTERM)
        assert asked.reached(1)
        clock[0] += 0.25
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_sigint_leaves_whether_or_not_sigterm_came_before():
    for before in ([], [signal.SIGTERM]):
        with Preemption() as asked:
            for number in before:
                signal.raise_signal(number)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            # Should a callback have swallowed that, which has happened, it comes again after the step.
            with pytest.raises(KeyboardInterrupt):
                asked.reached(1)


def test_without_its_context_nothing_is_touched():
    before = signal.getsignal(signal.SIGTERM)
    assert not Preemption().reached(1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_signals_stay_as_they_are():
    seen = []

    def run():
        with Preemption() as asked:
            seen.append((signal.getsignal(signal.SIGTERM), asked.reached(1)))

    thread = threading.Thread(target=run)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_step_at_hand_is_finished():
    process = loop(0.02)
    assert [process.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
    process.terminate()
    code, lines = ended(process)
    assert code == 75
    last = int(lines[-2]) if len(lines) > 1 else 3
    assert lines[-1] == f"stopped by SIGTERM after step {last}; the same command goes on from there."


def test_sigint_leaves_without_more_ado():
    process = loop(0.02)
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGINT)
    code, lines = ended(process)
    assert code == 130
    assert all(line.isdigit() for line in lines)


def test_two_processes_stop_after_the_same_step_though_only_one_was_told():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # Not equally fast, as hosts without a collective in between.
    processes = [loop(0.02, address, 0), loop(0.03, address, 1)]
    assert processes[1].stdout.readline() == "1\n"
    processes[1].terminate()
    ends = [ended(process) for process in processes]
    assert [code for code, _ in ends] == [75, 75]
    assert ends[0][1][-1] == ends[1][1][-1] == str(errors.Preempted(f"step {ends[0][1][-2]}"))
