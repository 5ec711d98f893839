"""Progress of a command: a bar on a terminal, occasional lines elsewhere."""

import sys
import threading
import time

from tqdm import tqdm


def say(line: str) -> None:
    """Prints a line to standard error without breaking a bar; escapes characters that its encoding lacks."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    tqdm.write(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


class Progress:
    """Progress towards a known total, with speed and time left."""

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
        """Starts the clock.

        Args:
          name: label before the count.
          total: final count.
          unit: unit of the count, in the plural.
          start: initial count, done by an earlier process.
          every_seconds: minimum time between two lines without a terminal; infinity prints none.
          quiet: shows nothing, as on all processes but the first.
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
            # Without tqdm's own estimate of the time left, which would include compilation.
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        self._begin = self._last_line = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    def advance(self, count: int = 1) -> None:
        """Adds to the count. The only method that may be called from other threads."""
        with self._lock:
            self.count += count

    def show(self, text: str | None = None) -> None:
        """Updates the bar, or prints a line if the last is old enough; `text` replaces speed and time left."""
        if self.on_terminal:
            self._bar.set_postfix_str(self._speed() if text is None else text, refresh=False)
            self._bar.update(self.count - self._bar.n)
        # Before the first count there is no speed.
        elif self.count > self._start and time.monotonic() - self._last_line >= self._seconds_between_lines:
            self._last_line = time.monotonic()
            text = self._speed() if text is None else text
            say(f"{self._name}: {self.count:,} of {self._total:,} {self._unit}  {text}")

    def close(self, text: str | None = None) -> None:
        """Shows the last count, with `text` as in `show`, and closes the bar."""
        self.show(text)
        self._bar.close()

    def _speed(self) -> str:
        done, seconds = self.count - self._start, self.seconds
        if done <= 0 or not seconds:
            return ""
        left = tqdm.format_interval((self._total - self.count) * seconds / done)
        return f"{done / seconds:,.1f} {self._unit}/s  {left} left"
