"""Progress of an evaluation: a bar with ETA on a terminal, an occasional line elsewhere."""

import sys
import time

from tqdm import tqdm

from inception_jax.system.progress import say

_SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Progress bar or lines for the images of one pass."""

    def __init__(self, name: str, *, start: int, total: int, quiet: bool):
        """`quiet` shows nothing: for all processes but the first."""
        self._name, self._start, self._total, self._quiet = name, start, total, quiet
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar = tqdm(
            total=total, initial=start, desc=name, unit="image", disable=not self._terminal, dynamic_ncols=True
        )
        self._begin = self._said_at = time.monotonic()

    def show(self, images: int) -> None:
        """Shows that `images` images are done, those of an earlier process counted."""
        self._bar.update(images - self._bar.n)
        now = time.monotonic()
        done = images - self._start
        # Before the first of its own there is no speed to say.
        if self._quiet or self._terminal or not done or now - self._said_at < _SECONDS_BETWEEN_LINES:
            return
        self._said_at = now
        speed = done / (now - self._begin)
        left = tqdm.format_interval((self._total - images) / speed)
        say(f"{self._name}: {images:,} of {self._total:,} images  {speed:.1f} images/s  {left} left")

    def close(self) -> None:
        """Leaves the bar where it is."""
        self._bar.close()
