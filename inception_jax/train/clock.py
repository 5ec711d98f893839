"""Clock of a run, and the speed of the steps between two of its metrics lines. No jax."""

import dataclasses
import time


class Clock:
    """Seconds spent training and evaluating since a run's first start, compilation excluded."""

    def __init__(self, spent: float = 0.0):
        """Starts at `spent`, the reading at which the run was interrupted."""
        self._zero = time.monotonic() - spent

    def exclude(self, seconds: float) -> None:
        """Excludes the last `seconds`; earlier moments can no longer be converted."""
        self._zero += seconds

    def at(self, moment: float) -> float:
        """Reading of the clock at a moment given by `time.monotonic`."""
        return moment - self._zero

    def now(self) -> float:
        """Current reading of the clock."""
        return self.at(time.monotonic())


@dataclasses.dataclass
class Window:
    """Steps since the last training line, whose speed the next line reports."""

    step: int
    """Step after which the window begins."""
    begin: float
    """Reading of the clock after that step."""
    waited: float = 0.0
    """Seconds in which the devices were idle, waiting for images."""

    def speed(self, step: int, end: float, batch_size: int) -> dict[str, float]:
        """Images per second of the window, and the fraction of its time spent waiting for them.

        Empty if the window holds no step, as after the first step of a process, which compiles.

        Args:
          step: last step of the window.
          end: reading of the clock when the devices finished that step.
          batch_size: images per step.
        """
        steps, seconds = step - self.step, end - self.begin
        if steps < 1 or seconds <= 0:
            return {}
        return {"images_per_second": batch_size * steps / seconds, "data_wait_share": min(1.0, self.waited / seconds)}
