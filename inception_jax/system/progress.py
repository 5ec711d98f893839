"""Progress of a command: a bar on a terminal, an occasional line elsewhere."""

import sys
import threading
import time

from tqdm import tqdm


def say(line: str) -> None:
    """Prints a line to standard error without breaking a bar."""
    tqdm.write(line, file=sys.stderr)


class Progress:
    """Count of what is done out of a known total, with speed and time left."""

    def __init__(
        self,
        name: str,
        total: int,
        unit: str,
        *,
        start: int = 0,
        every_seconds: float = 15.0,
        quiet: bool = False,
    ):
        """Begins the clock.

        Args:
          name: of the work, before the count.
          total: of the count.
          unit: what is counted, in the plural.
          start: of the count: what an earlier process had done.
          every_seconds: least time between two lines where there is no bar; infinity prints none.
          quiet: shows nothing, for all processes but the first.
        """
        self.count, self.on_terminal = start, sys.stderr.isatty() and not quiet
        self._name, self._total, self._unit, self._start = name, total, unit, start
        self._seconds_between_lines = float("inf") if quiet else every_seconds
        self._lock = threading.Lock()
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=name,
            disable=not self.on_terminal,
            dynamic_ncols=True,
            # Without tqdm's own time left, which would count compilation in.
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        self._begin = self._last_line = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    def advance(self, count: int = 1) -> None:
        """Adds to the count; may be called from any thread, the other methods only from the one that made this."""
        with self._lock:
            self.count += count

    def show(self, text: str | None = None) -> None:
        """Moves the bar, or prints a line if the last one is old enough; `text` replaces speed and time left."""
        if self.on_terminal:
            self._bar.set_postfix_str(self._speed() if text is None else text, refresh=False)
            self._bar.update(self.count - self._bar.n)
        # Before the first of its own there is no speed to give.
        elif self.count > self._start and time.monotonic() - self._last_line >= self._seconds_between_lines:
            self._last_line = time.monotonic()
            text = self._speed() if text is None else text
            say(f"{self._name}: {self.count:,} of {self._total:,} {self._unit}  {text}")

    def close(self, text: str | None = None) -> None:
        """Shows the last count, with `text` as in `show`, and leaves the bar where it is."""
        self.show(text)
        self._bar.close()

    def _speed(self) -> str:
        done, seconds = self.count - self._start, self.seconds
        if done <= 0 or not seconds:
            return ""
        left = tqdm.format_interval((self._total - self.count) * seconds / done)
        return f"{done / seconds:,.1f} {self._unit}/s  {left} left"
