"""Preemption: on SIGTERM a run finishes its step, saves and exits."""

import signal
import threading
import time
from types import FrameType
from typing import Any

# Seconds; timeout(1) and others signal the process and then its group.
_SAME_REQUEST = 1.0


class Preemption:
    """Context that catches SIGTERM for a training loop, which calls `reached` after every step.

    A second SIGTERM, more than a second later, raises KeyboardInterrupt. So does SIGINT, and again in `reached`,
    because callbacks from native code, such as JAX's from the garbage collector, swallow exceptions. Both wait for
    calls into native code, such as a compilation, to return.

    With several processes, JAX's own handler of SIGTERM, installed by `jax.distributed.initialize`, is left in place,
    because it notifies the other hosts; a second SIGTERM then does nothing. Outside the main thread, where Python
    allows no handlers, signals are left alone.
    """

    def __init__(self) -> None:
        """Installs no handler yet; outside the context `reached` is always False."""
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
            # None stands for a handler not installed from Python, which cannot be restored.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)

    def reached(self, step: int) -> bool:
        """Whether the run must save and exit now, after `step`: the same on every process.

        With several processes, each must call this after every step. SIGTERM to any of them is enough; all stop after
        the same step, about a second later.
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
        # Prints nothing: a handler may interrupt a print, which is not reentrant.
        now = time.monotonic()
        if self._requested_at is None:
            self._requested_at = now
        elif now - self._requested_at > _SAME_REQUEST:
            raise KeyboardInterrupt
