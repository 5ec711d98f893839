"""Training one run: `fit` reads from top to bottom as what happens."""

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

from inception_jax import build, checkpoint, config, runs, steps
from inception_jax.config import Experiment
from inception_jax.data.sources import Source
from inception_jax.errors import RunFailed, UserError
from inception_jax.evaluate import evaluate
from inception_jax.models.initialize import initial_variables
from inception_jax.models.summary import count_parameters, summarize
from inception_jax.progress import Progress, say


def fit(experiment: Experiment, directory: str | Path, *, name: str = "run") -> runs.Run:
    """Trains a run to its end in `directory`, going on from the newest checkpoint there.

    Args:
      experiment: what to train.
      directory: of the run; made if need be. One that holds another experiment is refused, its differences named.
      name: of the run, for the eyes of people.

    Returns:
      The finished run.

    Raises:
      UserError: the experiment, its data or the directory's contents do not allow it.
      RunFailed: the loss or a gradient is not finite.
    """
    directory = Path(directory)
    config.check(experiment)
    build.check_batches(experiment)
    training, validation = build.source(experiment, "train"), build.source(experiment, "validation")
    experiment = build.with_classes(experiment, len(training.class_names))
    refuse_another_experiment(directory, experiment)
    plan = build.plan(experiment, len(training))

    network = build.model(experiment)
    rate = build.schedule(experiment, plan.steps_per_epoch)
    chain = build.optimizer(experiment, rate)
    variables = initial_variables(network, experiment.seed, experiment.data.image_size)
    state = steps.create_state(variables, chain, experiment.seed)

    info = _info(experiment, name, plan, training, validation, variables["params"])
    checkpoints = checkpoint.Checkpoints(directory, keep=experiment.train.keep)
    with contextlib.closing(checkpoints):
        start = checkpoints.latest_step or 0
        next_batch = 0
        if start:
            _, next_batch = checkpoints.facts(start)
            state = checkpoints.restore(start, state)
        if start >= plan.steps:
            say(f"{name}: {directory} is already trained to step {start}; nothing is left to do.")
        else:
            if jax.process_index() == 0:
                runs.write_config(directory, info, experiment)
            train_step = build.train_step(experiment, network, chain)
            evaluate_step = build.evaluate_step(network)
            run = _Loop(experiment, directory, name, plan, rate, train_step, evaluate_step, checkpoints, start)
            run.introduce(info)
            state = steps.place(state)
            run.go(state, training, validation, start, next_batch)
    return runs.read_run(directory)


def fit_all(experiments: Mapping[str, Experiment], workdir: str | Path) -> tuple[list[Path], list[str]]:
    """Trains each run in a directory of its name; returns the directories and what stopped the runs that failed."""
    failed = []
    for name, experiment in experiments.items():
        try:
            fit(experiment, Path(workdir) / name, name=name)
        except RunFailed as error:
            failed.append(f"{name}: {error}")
    return [Path(workdir) / name for name in experiments], failed


def keep_compiled(directory: str | Path) -> None:
    """Keeps compiled programs in `directory`/.compilation-cache, so that a second start is quick."""
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(Path(directory).resolve() / ".compilation-cache"))


def join_hosts() -> None:
    """Joins the hosts of a pod; JAX finds them by itself on Cloud TPU, Slurm and GKE."""
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the other hosts cannot be found: {error}") from error


def refuse_another_experiment(directory: Path, experiment: Experiment) -> None:
    """Raises UserError, naming the fields that differ, when `directory` holds a run of another experiment."""
    if not (directory / runs.CONFIG).is_file():
        return
    differences = config.differences(experiment, runs.read_run(directory).experiment)
    if differences:
        raise UserError(
            f"{directory} holds another experiment: {', '.join(differences)}; use its settings or another --workdir."
        )


class _Loop:
    """The loop of one run, in the order evaluate, save, next batch, step, log.

    Saving before the next batch is drawn makes a resume exact. The metrics of a step are read after the next one has
    been launched, so that the device never waits for the host.
    """

    def __init__(
        self,
        experiment: Experiment,
        directory: Path,
        name: str,
        plan: build.Plan,
        rate: Callable[[int], Any],
        train_step: Callable[..., Any],
        evaluate_step: Callable[..., Any],
        checkpoints: checkpoint.Checkpoints,
        start: int,
    ):
        self.experiment, self.directory, self.plan, self.rate = experiment, directory, plan, rate
        self.train_step, self.evaluate_step, self.checkpoints = train_step, evaluate_step, checkpoints
        self.compiled: set[str] = set()
        self.compiling = 0.0
        first = jax.process_index() == 0
        self.writer = runs.MetricsWriter(directory, step=start) if first else None
        self.name = name
        # Every process reads them, so that all agree on which checkpoint is the best.
        earlier = [m for m in runs.read_metrics(directory) if m["step"] <= start and m.get("parameters") == "averaged"]
        self.best = min((m["top1_error"] for m in earlier), default=math.inf)
        self.seconds_before = self.writer.seconds if self.writer else 0.0
        self.last_saved = start
        self.pending: tuple[int, steps.Metrics] | None = None
        self.logged_step, self.waited = start, 0.0

    def introduce(self, info: runs.RunInfo) -> None:
        if not self.writer:
            return
        batch, devices = self.experiment.train.batch_size, jax.device_count()
        say(
            f"{info.name}: {self.experiment.model.name}, {info.parameters:,} parameters, "
            f"{info.multiply_adds / 1e6:,.0f} M multiply-adds an image; {info.training_images:,} training and "
            f"{info.validation_images:,} validation images; steps {self.last_saved} to {info.steps}\n"
            f"  learning rate {self.experiment.optim.learning_rate:g} for the global batch of {batch} images = "
            f"{devices} device{'s' * (devices > 1)} x {batch // devices}; {info.machine}"
        )

    def go(self, state: steps.TrainState, training: Source, validation: Source, start: int, next_batch: int) -> None:
        self.begin = self.logged_at = self._clock()
        with contextlib.ExitStack() as open_things:
            batches = open_things.enter_context(
                contextlib.closing(build.train_batches(self.experiment, training, next_batch))
            )
            self.progress = Progress(self.name, start=start, total=self.plan.steps, quiet=self.writer is None)
            open_things.enter_context(contextlib.closing(self.progress))
            if self.writer:
                open_things.enter_context(contextlib.closing(self.writer))
            for step in range(start, self.plan.steps + 1):
                if step > start:
                    self._look(state, step, validation, next_batch)
                if step == self.plan.steps:
                    break
                batch = self._next(batches)
                next_batch += 1
                state, metrics = self._call("training", self.train_step, state, batch)
                self._log()
                self.pending = (step + 1, metrics)

    def _look(self, state: steps.TrainState, step: int, validation: Source, next_batch: int) -> None:
        """Evaluates and saves where the plan says so."""
        evaluating = step in self.plan.evaluations
        due = step % self.experiment.train.checkpoint_every == 0 or step == self.plan.steps
        if not (evaluating or due):
            return
        self._log()  # Nothing that is not finite is evaluated or saved.
        error = self._evaluate(state, step, validation) if evaluating else None
        best = error is not None and error < self.best
        if best:
            self.best = error
        if due or best:
            self.checkpoints.save(step, state, next_batch=next_batch, experiment=self.experiment, top1_error=error)
            self.last_saved = step
        self.logged_at, self.logged_step, self.waited = self._clock(), step, 0.0

    def _evaluate(self, state: steps.TrainState, step: int, validation: Source) -> float:
        records = {}
        evaluate_step = functools.partial(self._call, "evaluation", self.evaluate_step)
        for name, params in steps.parameter_sets(state).items():
            with contextlib.closing(build.validation_batches(self.experiment, validation)) as batches:
                results = evaluate(evaluate_step, params, state.batch_stats, batches)
            records[name] = self._record(step, "validation", parameters=name, **results)
            self._write(records[name])
        self.progress.validation(records)
        return records["averaged"]["top1_error"]

    def _call(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a step; its first call, which compiles it, is waited for and kept off the clock.

        Compiling ahead would be plainer, but what pmap lowers cannot be called where there are several processes.
        """
        if name in self.compiled:
            return step(*arguments)
        begin = time.monotonic()
        results = jax.block_until_ready(step(*arguments))
        taken = time.monotonic() - begin
        self.compiled.add(name)
        self.compiling += taken
        if self.writer:
            say(f"  first {name} step, compiling included: {taken:.1f} s")
        return results

    def _clock(self) -> float:
        return time.monotonic() - self.compiling

    def _next(self, batches: Any) -> dict[str, np.ndarray]:
        begin = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - begin
        return batch

    def _log(self) -> None:
        """Reads the pending metrics: stops the run if they are not finite, writes them if they are due."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        values = {name: float(np.asarray(value)) for name, value in metrics.items()}
        rate = float(self.rate(step - 1))
        if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
            self._fail(step, rate, values)
        self.progress.step(step)
        if step % self.experiment.train.log_every and step != self.plan.steps:
            return
        now = self._clock()
        speed = self.experiment.train.batch_size * (step - self.logged_step) / max(now - self.logged_at, 1e-9)
        record = self._record(
            step, "train", **values, learning_rate=rate, images_per_second=speed, data_wait_seconds=self.waited
        )
        self._write(record)
        self.progress.training(record)
        self.logged_at, self.logged_step, self.waited = now, step, 0.0

    def _record(self, step: int, split: str, **values: Any) -> dict[str, Any]:
        seconds = self.seconds_before + self._clock() - self.begin
        return {"step": step, "epoch": step / self.plan.steps_per_epoch, "split": split, **values, "seconds": seconds}

    def _write(self, record: Mapping[str, Any]) -> None:
        if self.writer:
            self.writer.write(record)

    def _fail(self, step: int, rate: float, values: Mapping[str, float]) -> None:
        where = f"{self.directory / checkpoint.DIRECTORY / str(self.last_saved)}" if self.last_saved else "none yet"
        raise RunFailed(
            f"the loss is {values['loss']} and the gradient's norm {values['gradient_norm']} at step {step} (learning "
            f"rate {rate:g}); the last good checkpoint is {where}; lower optim.learning_rate or residual_scales."
        )


def _info(
    experiment: Experiment, name: str, plan: build.Plan, training: Source, validation: Source, params: Any
) -> runs.RunInfo:
    rows = summarize(build.model(experiment), experiment.data.image_size)
    device = jax.devices()[0]
    return runs.RunInfo(
        name=name,
        steps=plan.steps,
        training_images=len(training),
        validation_images=len(validation),
        parameters=count_parameters(params),
        multiply_adds=sum(row.multiply_adds for row in rows),
        machine=f"{jax.device_count()} x {device.device_kind}, jax {jax.__version__}, flax {flax.__version__}",
    )
