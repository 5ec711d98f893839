"""SIGTERM stops a run after its step, the same on every process; a second one, or SIGINT, at once."""

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

# The training loop and the command line without a network.
LOOP = """
import signal, sys, time
import jax
from inception_jax import errors
from inception_jax.system import preemption

step_seconds = float(sys.argv[1])
if sys.argv[2:]:
    jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
try:
    with preemption.Preemption() as preempted:
        for step in range(1, 1000):
            print(step, flush=True)
            time.sleep(step_seconds)
            if preempted.reached(step):
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
    """A clock that reads `now[0]`."""
    now = [100.0]
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
    return now


def test_the_previous_handler_is_restored():
    def mine(number, frame):
        raise AssertionError("not while the context is open")

    before = signal.signal(signal.SIGTERM, mine)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with Preemption() as preempted:
            assert signal.getsignal(signal.SIGTERM) not in (mine, before)
            signal.raise_signal(signal.SIGTERM)
            assert preempted.reached(1)
        assert signal.getsignal(signal.SIGTERM) is mine and signal.getsignal(signal.SIGINT) is interrupt
        with pytest.raises(ZeroDivisionError), Preemption():
            _ = 1 / 0
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_after_a_signal_every_later_step_is_the_last():
    with Preemption() as preempted:
        assert not preempted.reached(1)
        signal.raise_signal(signal.SIGTERM)
        assert preempted.reached(2) and preempted.reached(3)
    with Preemption() as another:
        assert not another.reached(4)


def test_a_second_signal_interrupts_if_more_than_a_second_later(clock):
    with Preemption() as preempted:
        signal.raise_signal(signal.SIGTERM)
        clock[0] += 1.0
        signal.raise_signal(signal.SIGTERM)
        assert preempted.reached(1)
        clock[0] += 0.25
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_sigint_interrupts_with_and_without_an_earlier_sigterm():
    for before in ([], [signal.SIGTERM]):
        with Preemption() as preempted:
            for number in before:
                signal.raise_signal(number)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            # Raised again after the step, in case a callback has swallowed the first one.
            with pytest.raises(KeyboardInterrupt):
                preempted.reached(1)


def test_outside_the_context_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    assert not Preemption().reached(1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_signals_are_left_alone():
    seen = []

    def run():
        with Preemption() as preempted:
            seen.append((signal.getsignal(signal.SIGTERM), preempted.reached(1)))

    thread = threading.Thread(target=run)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_current_step_is_finished():
    process = loop(0.02)
    assert [process.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
    process.terminate()
    code, lines = ended(process)
    assert code == 75
    last = int(lines[-2]) if len(lines) > 1 else 3
    assert lines[-1] == str(errors.Preempted(f"step {last}"))


def test_sigint_ends_the_loop_at_once():
    process = loop(0.02)
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGINT)
    code, lines = ended(process)
    assert code == 130
    assert all(line.isdigit() for line in lines)


def test_two_processes_stop_after_the_same_step_though_only_one_is_signalled():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # At different speeds, like hosts between two collectives.
    processes = [loop(0.02, address, 0), loop(0.03, address, 1)]
    assert processes[1].stdout.readline() == "1\n"
    processes[1].terminate()
    ends = [ended(process) for process in processes]
    assert [code for code, _ in ends] == [75, 75]
    assert ends[0][1][-1] == ends[1][1][-1] == str(errors.Preempted(f"step {ends[0][1][-2]}"))
