"""Preemption: on SIGTERM a run finishes its step, saves and exits."""

import signal
import threading
import time
from types import FrameType
from typing import Any

# Seconds. timeout(1) and others send a signal to the process and again to its group.
_SAME_REQUEST = 1.0


class Preemption:
    """A context that catches SIGTERM for the loop, which calls `reached` after every step.

    A second SIGTERM, more than a second later, raises KeyboardInterrupt wherever the process is; so does SIGINT, as
    always, and again in `reached`, because a callback from outside Python, such as JAX's of the garbage collector,
    swallows what is raised in it. Both wait for a call that is out of Python's hands, as compiling is.

    Where there are several processes, JAX's own handler, which `jax.distributed.initialize` has installed, is left
    alone, because it tells the other hosts; there a second SIGTERM does nothing. With one process ours takes its place.
    A context that is opened outside the main thread, where Python allows no handlers, leaves signals as they are.
    """

    def __init__(self) -> None:
        """Installs nothing yet; outside its context `reached` is always False."""
        self._multiprocess = self._interrupted = False
        self._previous_handlers: dict[signal.Signals, Any] = {}
        self._requested_at: float | None = None

    def __enter__(self) -> "Preemption":
        import jax

        self._multiprocess = jax.process_count() > 1
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_sigint)
            if not self._multiprocess:
                self._previous_handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_sigterm)
        return self

    def __exit__(self, *error: object) -> None:
        while self._previous_handlers:
            number, previous = self._previous_handlers.popitem()
            # None stands for a handler that was not installed from Python, which cannot be had back.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)

    def reached(self, step: int) -> bool:
        """Whether the run must save and exit now, after `step`: the same answer on every process.

        With several processes, each must ask after each step; SIGTERM in any one of them is enough, and it is the step
        after the newest that any has begun, at the soonest a second later.
        """
        if self._interrupted:
            raise KeyboardInterrupt
        if not self._multiprocess:
            return self._requested_at is not None
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def _on_sigint(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        # Nothing is said here: a handler may interrupt a print, which does not take a second one.
        now = time.monotonic()
        if self._requested_at is None:
            self._requested_at = now
        elif now - self._requested_at > _SAME_REQUEST:
            raise KeyboardInterrupt
