"""Metrics of a run: fetched from the devices one step late, timed, written and shown."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from inception_jax import config, runs
from inception_jax.build import Setup
from inception_jax.system import hosts
from inception_jax.train.clock import Clock, Window
from inception_jax.train.in_flight import InFlight
from inception_jax.train.progress import RunProgress
from inception_jax.train.watchdog import Watchdog


class MetricsLog:
    """Log of one run's metrics to metrics.jsonl, TensorBoard and the terminal.

    The metrics of a step are fetched after the next step has been launched, so that the devices never wait for the
    host.
    """

    def __init__(self, setup: Setup, workdir: Path, name: str, step: int):
        """Opens the metrics of `workdir` at `step`, dropping later lines, and starts the run's clock."""
        self._experiment, self._plan, self._schedule = setup.experiment, setup.plan, setup.schedule
        self._rate = config.learning_rate(self._experiment.optim, self._experiment.train.batch_size)
        self._workdir = workdir
        self.watchdog = Watchdog(
            self._experiment.train, report=lambda line: hosts.say_on_process_zero(f"{name}: {line}")
        )
        self._in_flight = InFlight()
        self.clock = Clock(self._open(step))
        self._window, self._skipped = Window(step, self.clock.now()), 0
        self._progress = RunProgress(name, start=step, total=setup.plan.steps, quiet=self._writer is None)

    def _open(self, step: int) -> float:
        """Opens the files at `step`; returns the reading of the run's clock there."""
        # Every process reads the metrics, so that all agree on the best checkpoint; only process 0 writes them.
        earlier = [m for m in runs.read_metrics(self._workdir) if m["step"] <= step]
        self._evaluated = [m for m in earlier if m.get("parameters") == "averaged"]
        self._writer = runs.MetricsWriter(self._workdir, step=step) if jax.process_index() == 0 else None
        return earlier[-1]["seconds"] if earlier else 0.0

    def wait_for(self, batches: Iterator[dict[str, np.ndarray]]) -> tuple[dict[str, np.ndarray], float]:
        """The next batch, and the seconds that the devices waited for it."""
        begin = time.monotonic()
        batch = next(batches)
        # Waiting costs nothing while a step is still running.
        return batch, max(0.0, time.monotonic() - max(begin, self._in_flight.idle_since()))

    def launched(self, step: int, metrics: Mapping[str, jax.Array], waited: float) -> None:
        """Fetches the metrics of the previous step and stores those of `step`, whose batch took `waited` seconds."""
        self.flush()
        self._window.waited += waited
        self._in_flight.push(step, metrics)

    def flush(self, *, due: bool = False) -> None:
        """Fetches the pending metrics and writes them if due; raises NonFiniteStep if they are not finite."""
        pending = self._in_flight.pop()
        if pending is None:
            return
        step, values, ended = pending
        rate = self._rate * float(self._schedule(step - 1))
        self.watchdog.check(step, values, rate)
        self._skipped += int(values.pop("skipped_images"))
        self._progress.step(step)
        if not due and step % self._experiment.train.log_every:
            return
        # The time when the devices finished this step; by now they may have finished the next one, too.
        seconds = self.clock.at(ended)
        speed = self._window.speed(step, seconds, self._experiment.train.batch_size)
        record = self._record(
            step, "train", seconds, **values, learning_rate=rate, **speed, skipped_images=self._skipped
        )
        self._write(record)
        self._progress.training(record)
        self._window, self._skipped = Window(step, seconds), 0

    def validation(self, step: int, results: Mapping[str, Mapping[str, float]]) -> bool:
        """Writes evaluation results, keyed by the name of the parameters; returns whether they are the best so far."""
        records = {
            name: self._record(step, "validation", self.clock.now(), parameters=name, **values)
            for name, values in results.items()
        }
        for record in records.values():
            self._write(record)
        self._progress.validation(records)
        self._evaluated.append(records["averaged"])
        return runs.evaluations_since_best(self._evaluated) == 0

    def is_out_of_patience(self) -> bool:
        """Whether `train.patience` ends the run here; says so."""
        patience = self._experiment.train.patience
        if not runs.is_out_of_patience(self._evaluated, patience):
            return False
        best = min(self._evaluated, key=lambda m: m["top1_error"])
        hosts.say_on_process_zero(
            f"  {patience} evaluation{'s' * (patience != 1)} without a lower error (train.patience): the run ends at "
            f"step {self._evaluated[-1]['step']}; the best, {best['top1_error']:.1%} at step {best['step']}, is kept."
        )
        return True

    def start_window(self, step: int) -> None:
        """Starts the window of the next training line here, after time that was not spent in steps."""
        self._window = Window(step, self.clock.now())

    def restart(self, step: int) -> None:
        """Starts the window of the next training line and the estimate of the time left here."""
        self.start_window(step)
        self._progress.restart(step, self.clock.now())

    def rewind(self, step: int) -> None:
        """Rewinds to an earlier step, dropping later lines and the step in flight."""
        self._in_flight.discard()
        self._close_writer()
        self._open(step)
        self._skipped = 0
        self.restart(step)

    def close(self) -> None:
        """Waits for the step in flight and closes the files and the bar."""
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
