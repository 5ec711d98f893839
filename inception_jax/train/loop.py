"""The training loop of one run."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

from inception_jax import build, checkpoint, runs, steps
from inception_jax.config import Experiment
from inception_jax.data.sources import Source
from inception_jax.errors import Preempted, RunFailed
from inception_jax.models.initialize import initial_variables, variable_shapes
from inception_jax.models.network import Network
from inception_jax.models.summary import count_parameters, summarize
from inception_jax.system.preemption import Preemption
from inception_jax.system.progress import Progress, say
from inception_jax.train.clock import Clock, Window
from inception_jax.train.in_flight import InFlight
from inception_jax.train.validate import validate
from inception_jax.weights.checkpoint import transfer


class _NonFiniteStep(Exception):
    """A step with a non-finite loss, gradient or variance; the message names it."""


class Loop:
    """One run and its loop: next batch, step, log, evaluate, save.

    A step's metrics are read after the next step has been launched, so that the device never waits for the host. The
    state of the data is the number of the next batch, so that a resume is exact.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        name: str,
        plan: build.Plan,
        model: Network,
        checkpoints: checkpoint.Checkpoints,
        saved: checkpoint.RunCheckpoint | None,
        training: Source,
        validation: Source,
        preemption: Preemption,
    ):
        """Takes what `fit` has built, and the checkpoint to resume from."""
        self.experiment, self.workdir, self.name, self.plan = experiment, workdir, name, plan
        self.model, self.checkpoints, self.training, self.validation = model, checkpoints, training, validation
        self.saved, self.preemption = saved, preemption
        self.start = saved.step if saved else 0
        self.schedule = build.make_schedule(experiment, plan.steps_per_epoch)
        self.optimizer = build.make_optimizer(experiment, self.schedule)
        self.train_step = build.train_step(experiment, model, self.optimizer)
        self.evaluate_step = build.evaluate_step(model)
        self.compiled: set[str] = set()
        self.in_flight = InFlight()
        self.rollbacks = self.dead = self.skipped = 0
        self._open_metrics(self.start)

    def _open_metrics(self, step: int) -> None:
        """Opens the metrics to continue from `step`, dropping later lines."""
        # Every process reads the metrics, so that all agree on which checkpoint is the best; the first writes them.
        earlier = [m for m in runs.read_metrics(self.workdir) if m["step"] <= step]
        self.best = min((m["top1_error"] for m in earlier if m.get("parameters") == "averaged"), default=math.inf)
        self.previous_seconds = earlier[-1]["seconds"] if earlier else 0.0
        self.writer = runs.MetricsWriter(self.workdir, step=step) if jax.process_index() == 0 else None
        self.last_saved = step

    def initial_state(self) -> tuple[steps.TrainState, int]:
        """The state to start from, on the devices, and the number of the next batch."""
        if self.saved:
            return self._restored(self.saved), self.saved.next_batch
        variables = initial_variables(self.model, self.experiment.seed, self.experiment.data.image_size)
        if self.experiment.train.init_from:
            variables, new = transfer(self.experiment.train.init_from, self.model, variables)
            if self.writer:
                say(f"{self.name}: starts from {self.experiment.train.init_from}" + "; its head is new" * new)
        return steps.place(steps.create_state(variables, self.optimizer, self.experiment.seed)), 0

    def _close_writer(self) -> None:
        # Not the writer itself: a rollback opens another.
        if self.writer:
            self.writer.close()

    def _restored(self, saved: checkpoint.RunCheckpoint) -> steps.TrainState:
        return steps.place(saved.state(build.state_shapes(self.experiment, self.model)))

    def write_header(self) -> None:
        """Writes config.json and logs the run's header."""
        if not self.writer:
            return
        info = _info(self.experiment, self.name, self.plan, self.model, self.training, self.validation)
        runs.write_config(self.workdir, info, self.experiment)
        batch, devices = self.experiment.train.batch_size, jax.device_count()
        say(
            f"{info.name}: {self.experiment.model.name}, {info.parameters:,} parameters, "
            f"{info.multiply_adds / 1e6:,.0f} M multiply-adds an image; {info.training_images:,} training and "
            f"{info.validation_images:,} validation images; steps {self.start} to {info.steps}\n"
            f"  learning rate {self.experiment.optim.learning_rate:g} for the global batch of {batch} images = "
            f"{devices} device{'s' * (devices > 1)} x {batch // devices}; {info.machine}"
        )

    def run(self, state: steps.TrainState, next_batch: int) -> None:
        """Trains to the end."""
        self.clock = Clock(self.previous_seconds)
        self.window = Window(self.start, self.clock.now())
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(self.in_flight))
            batches = stack.enter_context(
                contextlib.closing(build.train_batches(self.experiment, self.training, next_batch))
            )
            self.progress = Progress(self.name, start=self.start, total=self.plan.steps, quiet=self.writer is None)
            stack.enter_context(contextlib.closing(self.progress))
            stack.callback(self._close_writer)
            step = self.start
            while step < self.plan.steps:
                try:
                    batch, waited = self._next(batches)
                    next_batch += 1
                    compiles = "training" not in self.compiled
                    state, metrics = self._timed_call("training", self.train_step, state, batch)
                    self._log()
                    self.window.waited += waited
                    step += 1
                    if compiles:  # Its time is off the clock, so it counts neither as a step of a line nor for the ETA.
                        self.window = Window(step, self.clock.now())
                        self.progress.restart(step, self.clock.now())
                    self.in_flight.push(step, metrics)
                    self._evaluate_and_save(state, step, next_batch)
                except _NonFiniteStep as error:
                    state, step = self._roll_back(str(error))

    def _evaluate_and_save(self, state: steps.TrainState, step: int, next_batch: int) -> None:
        """Evaluates and saves where the plan says so, and on preemption."""
        last = step == self.plan.steps
        stopping = self.preemption.reached(step) and not last
        evaluating = step in self.plan.evaluations
        due = step % self.experiment.train.checkpoint_every == 0 or last or stopping
        if not (evaluating or due):
            return
        # Nothing that is not finite is evaluated or saved; and what goes on from here need not know of steps before.
        self._log(due=True)
        error = self._evaluate(state, step) if evaluating else None
        best = error is not None and error < self.best
        if best:
            self.best = error
        if due or best:
            self.checkpoints.save(step, state, next_batch=next_batch, experiment=self.experiment, top1_error=error)
            self.last_saved = step
        if stopping:
            raise Preempted(step)
        self.window = Window(step, self.clock.now())

    def _roll_back(self, reason: str) -> tuple[steps.TrainState, int]:
        """The state and step of the newest checkpoint, from which training continues with the next images."""
        where = f"{self.workdir / checkpoint.DIRECTORY / str(self.last_saved)}" if self.last_saved else "none yet"
        train = self.experiment.train
        if train.on_nonfinite == "stop" or not self.last_saved or self.rollbacks == train.rollbacks:
            after = f" after {self.rollbacks} rollbacks" if self.rollbacks else ""
            raise RunFailed(
                f"{reason}{after}; the last good checkpoint is {where}; lower optim.learning_rate or residual_scales."
            )
        self.rollbacks += 1
        self.in_flight.discard()
        self._close_writer()
        if self.writer:
            say(f"{self.name}: {reason}; back to {where} (rollback {self.rollbacks} of {train.rollbacks})")
        self.checkpoints.wait()
        saved = checkpoint.newest(self.workdir)
        assert saved is not None  # one was written
        self._open_metrics(saved.step)
        self.progress.restart(saved.step, self.clock.now())
        self.window, self.skipped = Window(saved.step, self.clock.now()), 0
        return self._restored(saved), saved.step

    def _evaluate(self, state: steps.TrainState, step: int) -> float:
        records = {}
        evaluate_step = functools.partial(self._timed_call, "evaluation", self.evaluate_step)
        for name, params in steps.parameter_sets(state).items():
            with contextlib.closing(build.validation_batches(self.experiment, self.validation)) as batches:
                results = validate(evaluate_step, params, state.batch_stats, batches)
            records[name] = self._record(step, "validation", self.clock.now(), parameters=name, **results)
            self._write(records[name])
        self.progress.validation(records)
        return records["averaged"]["top1_error"]

    def _timed_call(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a step; blocks on its first call, which compiles it, and keeps that time off the clock.

        Compiling ahead would be plainer, but what pmap lowers cannot be called where there are several processes.
        """
        if name in self.compiled:
            return step(*arguments)
        begin = time.monotonic()
        results = jax.block_until_ready(step(*arguments))
        taken = time.monotonic() - begin
        self.compiled.add(name)
        self.clock.exclude(taken)
        if self.writer:
            say(f"  first {name} step, compiling included: {taken:.1f} s")
        return results

    def _next(self, batches: Any) -> tuple[dict[str, np.ndarray], float]:
        """The next batch, and the seconds that the devices waited for it."""
        begin = time.monotonic()
        batch = next(batches)
        # Only while the devices had nothing to do: a wait behind a step that goes on costs nothing.
        return batch, max(0.0, time.monotonic() - max(begin, self.in_flight.idle_since()))

    def _log(self, *, due: bool = False) -> None:
        """Reads the pending metrics: stops the run if they are not finite, writes them if they are due."""
        taken = self.in_flight.pop()
        if taken is None:
            return
        step, values, ended = taken
        rate = self.experiment.optim.learning_rate * float(self.schedule(step - 1))
        loss, norm, variance = (values[name] for name in ("loss", "gradient_norm", "least_variance"))
        # Not `variance < 0`, which NaN is not either.
        if not (math.isfinite(loss) and math.isfinite(norm) and variance >= 0):
            raise _NonFiniteStep(
                f"the loss is {loss}, the gradient's norm {norm} and the least BN variance {variance} at step {step} "
                f"(learning rate {rate:g})"
            )
        self._warn_if_dying(step, values["zero_share"])
        self.skipped += int(values.pop("skipped_images"))
        self.progress.step(step)
        if not due and step % self.experiment.train.log_every:
            return
        # When the devices had finished this step, not now: they may have finished the next one, too.
        seconds = self.clock.at(ended)
        speed = self.window.speed(step, seconds, self.experiment.train.batch_size)
        record = self._record(
            step, "train", seconds, **values, learning_rate=rate, **speed, skipped_images=self.skipped
        )
        self._write(record)
        self.progress.training(record)
        self.window, self.skipped = Window(step, seconds), 0

    def _record(self, step: int, split: str, seconds: float, **values: Any) -> dict[str, Any]:
        epoch = step / self.plan.steps_per_epoch
        return {"step": step, "epoch": epoch, "split": split, **values, "seconds": seconds}

    def _write(self, record: Mapping[str, Any]) -> None:
        if self.writer:
            self.writer.write(record)

    def _warn_if_dying(self, step: int, fraction: float) -> None:
        """Warns once that the network is dying, after enough consecutive steps of almost only zeros."""
        self.dead = self.dead + 1 if fraction >= self.experiment.train.dead_share else 0
        if self.dead == self.experiment.train.dead_steps and self.writer:
            say(
                f"{self.name}: warning: since step {step - self.dead + 1} {fraction:.2%} of the activations before the "
                "pool are zero: the network is dying; lower model.residual_scales or optim.learning_rate."
            )


def _info(
    experiment: Experiment, name: str, plan: build.Plan, model: Network, training: Source, validation: Source
) -> runs.RunInfo:
    size = experiment.data.image_size
    device = jax.devices()[0].device_kind
    return runs.RunInfo(
        name=name,
        steps=plan.steps,
        training_images=len(training),
        validation_images=len(validation),
        parameters=count_parameters(variable_shapes(model, size)["params"]),
        multiply_adds=sum(row.multiply_adds for row in summarize(model, size)),
        machine=f"{jax.device_count()} x {device}, JAX {jax.__version__}, Flax {flax.__version__}",
    )
