"""The training loop of one run."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from inception_jax import checkpoint, steps
from inception_jax.build import Setup, train_batches, validation_batches
from inception_jax.data.sources import Source
from inception_jax.errors import Preempted
from inception_jax.system.preemption import Preemption
from inception_jax.train.metrics_log import MetricsLog
from inception_jax.train.validate import validate
from inception_jax.train.watchdog import NonFiniteStep, Watchdog


def train(
    setup: Setup,
    state: steps.TrainState,
    *,
    step: int,
    next_batch: int,
    training: Source,
    validation: Source,
    workdir: Path,
    checkpoints: checkpoint.Checkpoints,
    log: MetricsLog,
    watchdog: Watchdog,
    preemption: Preemption,
    report: Callable[[str], None],
) -> None:
    """Trains to the end of the plan: next batch, step, log; then, where they are due, evaluate and save.

    Args:
      setup: the model, its steps and the plan.
      state: to continue from, on the devices.
      step: updates that the state has seen.
      next_batch: number of the next batch, all that there is of the data's state.
      training: images of the training batches.
      validation: images of the evaluations.
      workdir: of the run, for rolling back.
      checkpoints: written while training continues.
      log: metrics of the run, opened at `step`.
      watchdog: as in `log`.
      preemption: ends the run after its step, saved.
      report: told how long the first step of each kind took.

    Raises:
      Preempted: SIGTERM came; the run is saved.
      RunFailed: the loss or a gradient is not finite, or something could not be written.
    """
    plan, start, last_saved = setup.plan, step, step
    train_step = _excluding_first_call("training", setup.train_step, log.clock.exclude, report)
    evaluate_step = _excluding_first_call("evaluation", setup.evaluate_step, log.clock.exclude, report)
    with contextlib.closing(train_batches(setup.experiment, training, next_batch)) as batches:
        while step < plan.steps:
            try:
                batch, waited = log.wait_for(batches)
                next_batch += 1
                state, metrics = train_step(state, batch)
                log.launched(step + 1, metrics, waited)
                step += 1
                if step == start + 1:  # It compiled.
                    log.restart(step)

                stopping = preemption.reached(step) and step < plan.steps
                evaluating = step in plan.evaluations
                saving = step % setup.experiment.train.checkpoint_every == 0 or step == plan.steps or stopping
                if not (evaluating or saving):
                    continue
                # Nothing that is not finite is evaluated or saved, and a resumed run need not know of steps before.
                log.flush(due=True)
                results = _evaluate(setup, evaluate_step, state, validation) if evaluating else None
                best = results is not None and log.validation(step, results)
                if saving or best:
                    error = results["averaged"]["top1_error"] if results else None
                    checkpoints.save(step, state, next_batch=next_batch, experiment=setup.experiment, top1_error=error)
                    last_saved = step
                if stopping:
                    raise Preempted(f"step {step}")
                log.start_window(step)
            except NonFiniteStep as error:
                directory = str(workdir / checkpoint.DIRECTORY / str(last_saved)) if last_saved else None
                watchdog.allow_rollback(str(error), directory)
                checkpoints.wait()
                saved = checkpoint.newest(workdir)
                assert saved is not None  # one was written
                step = saved.step
                log.rewind(step)
                state = steps.place(saved.state(setup.state_shapes()))


def _evaluate(
    setup: Setup, evaluate_step: Callable[..., Any], state: steps.TrainState, validation: Source
) -> dict[str, dict[str, float]]:
    results = {}
    for name, params in steps.parameter_sets(state).items():
        with contextlib.closing(validation_batches(setup.experiment, validation)) as batches:
            results[name] = validate(evaluate_step, params, state.batch_stats, batches)
    return results


def _excluding_first_call(
    name: str, step: Callable[..., Any], exclude: Callable[[float], None], report: Callable[[str], None]
) -> Callable[..., Any]:
    """The step, but blocking on its first call, which compiles it, and keeping that time off the clock.

    Compiling ahead would be plainer, but what pmap lowers cannot be called where there are several processes.
    """
    compiled = False

    def call(*arguments: Any) -> Any:
        nonlocal compiled
        if compiled:
            return step(*arguments)
        begin = time.monotonic()
        results = jax.block_until_ready(step(*arguments))
        seconds = time.monotonic() - begin
        compiled = True
        exclude(seconds)
        report(f"  first {name} step, compiling included: {seconds:.1f} s")
        return results

    return call
