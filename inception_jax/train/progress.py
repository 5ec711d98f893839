"""Progress of a run: training and validation records beside a bar on a terminal, as lines elsewhere."""

import math
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from inception_jax.system.progress import Progress, say

_INPUT_BOUND = (
    "warning: the devices waited {:.0%} of the time for images; give the run more cores (data.threads) or prepare the "
    "data set (inception-jax data prepare); inception-jax benchmark data SOURCE measures each stage."
)


class RunProgress:
    """Progress of the steps of one run."""

    def __init__(self, name: str, *, start: int, total: int, quiet: bool = False):
        """Shows the bar at `start`, or nothing if `quiet`, as on all processes but the first."""
        # Without a terminal the records themselves are the lines.
        self._steps = Progress(name, total, "steps", start=start, every_seconds=math.inf, quiet=quiet)
        self._quiet, self._total, self._text = quiet, total, ""
        self._start, self._begin = start, 0.0
        self._records, self._warned = 0, False

    def restart(self, step: int, seconds: float) -> None:
        """Estimates the time left from here on; `seconds` is the run's clock after `step`."""
        self._start, self._begin = step, seconds
        self.step(step)

    def step(self, step: int) -> None:
        """Moves the bar."""
        self._steps.advance(step - self._steps.count)
        self._steps.show(self._text)

    def training(self, record: Mapping[str, Any]) -> None:
        """Shows a training record."""
        parts = [f"loss {record['loss']:.3f}", f"top-1 error {record['top1_error']:.1%}"]
        if (speed := record.get("images_per_second")) is not None:
            parts.append(f"{speed:.1f} images/s")
        if (wait := record.get("data_wait_share")) is not None:
            parts.append(f"data wait {wait:.0%}")
        if record["step"] > self._start:
            parts.append(f"{self._eta(record)} left")
        self._text = "  ".join(parts)
        self._steps.show(self._text)
        if not self._steps.on_terminal:
            self._say(f"{self._where(record)}  {self._text}")
        # Not in the first line: no batch was prefetched before its first step.
        if self._records and (wait or 0.0) > 0.1 and not self._warned:
            self._warned = True
            self._say(_INPUT_BOUND.format(wait))
        self._records += 1

    def validation(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Shows the records of one evaluation, keyed by the name of the parameters."""
        # With fewer than six classes there is no top-5 error.
        shown = [name for name in ("top1_error", "top5_error") if name in next(iter(records.values()))]
        errors = ", ".join(
            f"{name} {' / '.join(f'{record[error]:.2%}' for error in shown)}" for name, record in records.items()
        )
        names = " / ".join(error.replace("top", "top-").removesuffix("_error") for error in shown)
        self._say(f"{self._where(next(iter(records.values())))}  validation {names} error: {errors}")

    def close(self) -> None:
        """Closes the bar."""
        self._steps.close(self._text)

    def _say(self, line: str) -> None:
        if not self._quiet:
            say(line)

    def _where(self, record: Mapping[str, Any]) -> str:
        return f"step {record['step']}/{self._total}  epoch {record['epoch']:.2f}"

    def _eta(self, record: Mapping[str, Any]) -> str:
        seconds = (record["seconds"] - self._begin) / (record["step"] - self._start)
        return tqdm.format_interval((self._total - record["step"]) * seconds)
