"""What a run says while it goes on: a bar with ETA on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm


def say(line: str) -> None:
    """Prints a line to standard error without breaking a bar."""
    tqdm.write(line, file=sys.stderr)


_STARVED = (
    "warning: the devices waited {:.0%} of the time for images; give the run more cores (data.threads) or prepare the "
    "data set (inception-jax data prepare); inception-jax benchmark data SOURCE shows what is slow."
)


class Progress:
    """Shows the steps of one run, from its making on."""

    def __init__(self, name: str, *, start: int, total: int, quiet: bool = False):
        """`quiet` shows nothing: for all processes but the first."""
        self._quiet, self._start, self._total = quiet, start, total
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar = tqdm(
            total=total, initial=start, desc=name, unit="step", disable=not self._terminal, dynamic_ncols=True
        )
        self._begin = time.monotonic()
        self._lines, self._warned = 0, False

    def step(self, step: int) -> None:
        """Moves the bar."""
        self._bar.update(step - self._bar.n)

    def training(self, record: Mapping[str, Any]) -> None:
        """Shows a training record."""
        text = f"loss {record['loss']:.3f}  top-1 error {record['top1_error']:.1%}"
        wait = f"data wait {record['data_wait_share']:.0%}"
        if self._terminal:
            self._bar.set_postfix_str(f"{text}  {wait}")
        else:
            speed = f"{record['images_per_second']:.1f} images/s"
            self._say(f"{self._where(record)}  {text}  {speed}  {wait}  {self._eta(record)}")
        # Not in the first line, whose first batch found no batch made ahead.
        if self._lines and record["data_wait_share"] > 0.1 and not self._warned:
            self._warned = True
            self._say(_STARVED.format(record["data_wait_share"]))
        self._lines += 1

    def validation(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Shows the records of one evaluation, by the name of the parameters."""
        errors = ", ".join(
            f"{name} {record['top1_error']:.2%} / {record['top5_error']:.2%}" for name, record in records.items()
        )
        self._say(f"{self._where(next(iter(records.values())))}  validation top-1 / top-5 error: {errors}")

    def close(self) -> None:
        """Leaves the bar where it is."""
        self._bar.close()

    def _say(self, line: str) -> None:
        if not self._quiet:
            say(line)

    def _where(self, record: Mapping[str, Any]) -> str:
        return f"step {record['step']}/{self._total}  epoch {record['epoch']:.2f}"

    def _eta(self, record: Mapping[str, Any]) -> str:
        done = record["step"] - self._start
        left = (self._total - record["step"]) * (time.monotonic() - self._begin) / max(done, 1)
        return f"{tqdm.format_interval(left)} left"
