"""The metrics of a run: read from the devices a step late, timed, written and shown."""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from inception_jax import runs
from inception_jax.build import Setup
from inception_jax.train.clock import Clock, Window
from inception_jax.train.in_flight import InFlight
from inception_jax.train.progress import RunProgress
from inception_jax.train.watchdog import Watchdog


class MetricsLog:
    """Metrics of one run, from the devices to metrics.jsonl, TensorBoard and the terminal.

    A step's metrics are read after the next step has been launched, so that the devices never wait for the host.
    """

    def __init__(self, setup: Setup, workdir: Path, name: str, step: int, watchdog: Watchdog):
        """Opens the metrics to continue from `step`, dropping later lines; the run's clock begins.

        Args:
          setup: what is trained.
          workdir: of the run.
          name: of the run, for the progress bar.
          step: of the state from which training continues.
          watchdog: sees the metrics of every step.
        """
        self._experiment, self._plan, self._schedule = setup.experiment, setup.plan, setup.schedule
        self._workdir, self._watchdog = workdir, watchdog
        self._in_flight = InFlight()
        self.clock = Clock(self._open(step))
        self._window, self._skipped = Window(step, self.clock.now()), 0
        self._progress = RunProgress(name, start=step, total=setup.plan.steps, quiet=self._writer is None)

    def _open(self, step: int) -> float:
        """Returns the seconds that the run had taken by `step`."""
        # Every process reads the metrics, so that all agree on which checkpoint is the best; the first writes them.
        earlier = [m for m in runs.read_metrics(self._workdir) if m["step"] <= step]
        self._best = min((m["top1_error"] for m in earlier if m.get("parameters") == "averaged"), default=math.inf)
        self._writer = runs.MetricsWriter(self._workdir, step=step) if jax.process_index() == 0 else None
        return earlier[-1]["seconds"] if earlier else 0.0

    def wait_for(self, batches: Iterator[dict[str, np.ndarray]]) -> tuple[dict[str, np.ndarray], float]:
        """The next batch, and the seconds that the devices waited for it."""
        begin = time.monotonic()
        batch = next(batches)
        # Only while the devices had nothing to do: a wait behind a step that goes on costs nothing.
        return batch, max(0.0, time.monotonic() - max(begin, self._in_flight.idle_since()))

    def launched(self, step: int, metrics: Mapping[str, jax.Array], waited: float) -> None:
        """Reads the metrics of the step before, and stores those of `step`, which waited so long for its batch."""
        self.flush()
        self._window.waited += waited
        self._in_flight.push(step, metrics)

    def flush(self, *, due: bool = False) -> None:
        """Reads the pending metrics and writes them if they are due; NonFiniteStep if they are of no use."""
        pending = self._in_flight.pop()
        if pending is None:
            return
        step, values, ended = pending
        rate = self._experiment.optim.learning_rate * float(self._schedule(step - 1))
        self._watchdog.check(step, values, rate)
        self._skipped += int(values.pop("skipped_images"))
        self._progress.step(step)
        if not due and step % self._experiment.train.log_every:
            return
        # When the devices had finished this step, not now: they may have finished the next one, too.
        seconds = self.clock.at(ended)
        speed = self._window.speed(step, seconds, self._experiment.train.batch_size)
        record = self._record(
            step, "train", seconds, **values, learning_rate=rate, **speed, skipped_images=self._skipped
        )
        self._write(record)
        self._progress.training(record)
        self._window, self._skipped = Window(step, seconds), 0

    def validation(self, step: int, results: Mapping[str, Mapping[str, float]]) -> bool:
        """Writes the results of an evaluation, by the name of the parameters; True if they are the best so far."""
        records = {
            name: self._record(step, "validation", self.clock.now(), parameters=name, **values)
            for name, values in results.items()
        }
        for record in records.values():
            self._write(record)
        self._progress.validation(records)
        error = records["averaged"]["top1_error"]
        best, self._best = error < self._best, min(error, self._best)
        return best

    def start_window(self, step: int) -> None:
        """Begins the steps of the next training line here: what happened since the last one was no step."""
        self._window = Window(step, self.clock.now())

    def restart(self, step: int) -> None:
        """Begins both the next training line and the estimate of the time left here."""
        self.start_window(step)
        self._progress.restart(step, self.clock.now())

    def rewind(self, step: int) -> None:
        """Continues from an earlier step, dropping the lines after it and the step in flight."""
        self._in_flight.discard()
        self._close_writer()
        self._open(step)
        self._skipped = 0
        self.restart(step)

    def close(self) -> None:
        """Waits for the step in flight and closes file and bar."""
        self._close_writer()
        self._progress.close()
        self._in_flight.close()

    def _record(self, step: int, split: str, seconds: float, **values: Any) -> dict[str, Any]:
        epoch = step / self._plan.steps_per_epoch
        return {"step": step, "epoch": epoch, "split": split, **values, "seconds": seconds}

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._writer:
            self._writer.write(record)

    def _close_writer(self) -> None:
        if self._writer:
            self._writer.close()
