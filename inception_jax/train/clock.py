"""Time of a run: what it has spent, and the speed of the steps between two of its metrics lines. No jax."""

import dataclasses
import time


class Clock:
    """Seconds spent training and evaluating since a run's first start, compilation excluded."""

    def __init__(self, spent: float = 0.0):
        """Starts at `spent`, what the run had spent before it was resumed."""
        self._zero = time.monotonic() - spent

    def exclude(self, seconds: float) -> None:
        """Excludes the last `seconds`; moments before them can no longer be converted."""
        self._zero += seconds

    def at(self, moment: float) -> float:
        """Reading of the clock at a moment given by `time.monotonic`."""
        return moment - self._zero

    def now(self) -> float:
        """Current reading of the clock."""
        return self.at(time.monotonic())


@dataclasses.dataclass
class Window:
    """The steps since the last training line, whose speed the next line reports."""

    step: int
    """Step after which the window begins."""
    begin: float
    """Reading of the clock then."""
    waited: float = 0.0
    """Seconds in which the devices were idle before one of its steps, waiting for images."""

    def speed(self, step: int, end: float, batch_size: int) -> dict[str, float]:
        """Images a second, and the fraction of time spent waiting for them, of the steps after `self.step` to `step`.

        Empty where the window holds no step: the first step of a process compiles, so its time is not known.

        Args:
          step: the last step of the window.
          end: reading of the clock when the devices had finished it.
          batch_size: images of a step.
        """
        steps, seconds = step - self.step, end - self.begin
        if steps < 1 or seconds <= 0:
            return {}
        return {"images_per_second": batch_size * steps / seconds, "data_wait_share": min(1.0, self.waited / seconds)}
