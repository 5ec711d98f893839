"""Progress of several threads: a bar on a terminal, an occasional line elsewhere."""

import sys
import threading
import time

from tqdm import tqdm

from inception_jax.system.progress import say

_SECONDS_BETWEEN_LINES = 30.0  # seconds between two lines


class Progress:
    """Counts images; `advance` may be called from any thread, the rest only from the one that made it."""

    def __init__(self, total: int):
        """Starts at 0 of `total` images."""
        self.count, self._total, self._lock = 0, total, threading.Lock()
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, unit=" images", disable=not self._terminal, dynamic_ncols=True)
        self._begin = self._last_line = time.monotonic()

    def advance(self) -> None:
        """Counts one image."""
        with self._lock:
            self.count += 1

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    def show(self) -> None:
        """Moves the bar, or prints a line if the last one is old enough."""
        self._bar.update(self.count - self._bar.n)
        if self._terminal or time.monotonic() - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = time.monotonic()
        rate = self.count / self.seconds
        left = tqdm.format_interval((self._total - self.count) / rate) if rate else "?"
        say(f"{self.count:,} of {self._total:,} images  {rate:,.0f} images/s  {left} left")

    def close(self) -> None:
        """Leaves the bar where it is."""
        self.show()
        self._bar.close()
