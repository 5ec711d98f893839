"""The training loop of one run."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from inception_jax import checkpoint, steps
from inception_jax.benchmark import fitting_batch
from inception_jax.build import Setup, train_batches, validation_batches
from inception_jax.data.sources import Source
from inception_jax.errors import Preempted
from inception_jax.system import hosts
from inception_jax.system.memory import explain_out_of_memory
from inception_jax.system.preemption import Preemption
from inception_jax.train.metrics_log import MetricsLog
from inception_jax.train.start import restore
from inception_jax.train.validate import validate
from inception_jax.train.watchdog import NonFiniteStep


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """Parts of a run that stay the same from step to step."""

    setup: Setup
    training: Source
    """Images of the training batches."""
    validation: Source
    """Images of the evaluations."""
    workdir: Path
    checkpoints: checkpoint.Checkpoints
    log: MetricsLog
    """Metrics of the run, opened at the step from which the loop starts."""
    preemption: Preemption


def train(run: TrainingRun, state: steps.TrainState, saved: checkpoint.RunCheckpoint | None) -> None:
    """Trains to the end of the plan or of the patience: next batch, step, log; then evaluate and save where due.

    Args:
      run: the parts of the run.
      state: initial or restored state, on the devices.
      saved: the checkpoint that `state` was restored from; None at the first step.

    Raises:
      Preempted: SIGTERM arrived; the run is saved.
      UserError: the memory does not suffice for the batch.
      RunFailed: the loss or a gradient is not finite, or a file could not be written.
    """
    setup, log, plan = run.setup, run.log, run.setup.plan
    step, next_batch, unfrozen = (saved.step, saved.next_batch, saved.unfrozen) if saved else (0, 0, False)
    last_saved, first_step, ended = step, step + 1, False
    train_steps = [
        _exclude_first_call("training", setup.phase(unfrozen=second).train_step, log) for second in (False, True)
    ]
    evaluate_step = _exclude_first_call("evaluation", setup.evaluate_step, log)
    with (
        explain_out_of_memory(lambda: f"{fitting_batch.for_training('train.batch_size', setup.experiment)}."),
        contextlib.closing(train_batches(setup.experiment, run.training, next_batch)) as batches,
    ):
        while not ended:
            try:
                if not unfrozen and plan.is_unfrozen(step):
                    log.flush()  # The time of a step cannot be read after the next one compiled.
                    state, unfrozen, first_step = setup.unfreeze(state), True, step + 1
                batch, waited = log.wait_for(batches)
                next_batch += 1
                state, metrics = train_steps[unfrozen](state, batch)
                log.launched(step + 1, metrics, waited)
                step += 1
                if step == first_step:  # It compiled.
                    log.restart(step)

                stopping = run.preemption.reached(step) and step < plan.steps
                evaluating = step in plan.evaluations
                saving = step % setup.experiment.train.checkpoint_every == 0 or stopping
                if not (evaluating or saving):
                    continue
                # Raises before a non-finite state is evaluated or saved, and writes the line that a resumed run needs.
                log.flush(due=True)
                results = _evaluate(run, evaluate_step, state) if evaluating else None
                best = results is not None and log.validation(step, results)
                ended = step == plan.steps or log.is_out_of_patience()
                if saving or best or ended:
                    run.checkpoints.save(
                        step,
                        state,
                        next_batch=next_batch,
                        experiment=setup.experiment,
                        top1_error=results["averaged"]["top1_error"] if results else None,
                        unfrozen=unfrozen,
                    )
                    last_saved = step
                if stopping:
                    raise Preempted(f"step {step}")
                log.start_window(step)
            except NonFiniteStep as error:
                saved = _roll_back(run, str(error), last_saved)
                step, unfrozen, state = saved.step, saved.unfrozen, restore(setup, saved)


def _roll_back(run: TrainingRun, reason: str, last_saved: int) -> checkpoint.RunCheckpoint:
    """Rewinds the metrics to the newest checkpoint, and returns it; RunFailed if the run stops instead."""
    directory = str(run.workdir / checkpoint.DIRECTORY / str(last_saved)) if last_saved else None
    run.log.watchdog.allow_rollback(reason, directory)
    run.checkpoints.wait()
    saved = checkpoint.newest(run.workdir)
    assert saved is not None  # at `last_saved`
    run.log.rewind(saved.step)
    return saved


def _evaluate(
    run: TrainingRun, evaluate_step: Callable[..., Any], state: steps.TrainState
) -> dict[str, dict[str, float]]:
    """Validation results keyed by the name of the parameters."""
    results = {}
    for name, params in steps.parameter_sets(state).items():
        with (
            explain_out_of_memory(lambda: _too_large_to_validate(run.setup)),
            contextlib.closing(validation_batches(run.setup.experiment, run.validation)) as batches,
        ):
            results[name] = validate(evaluate_step, params, state.batch_stats, batches)
    return results


def _too_large_to_validate(setup: Setup) -> str:
    size, batch = setup.experiment.data.image_size, setup.experiment.evaluation.batch_size
    return (
        f"{fitting_batch.sentence('evaluation.batch_size', batch, size, fitting_batch.inference(setup.model, size))}."
    )


def _exclude_first_call(name: str, step: Callable[..., Any], log: MetricsLog) -> Callable[..., Any]:
    """Makes the first call of a step, which compiles it, block, and excludes its time from the run's clock.

    Compiling ahead of time is not possible, because a lowered pmap cannot be called with several processes.
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
        log.clock.exclude(seconds)
        hosts.say_on_process_zero(f"  first {name} step, compilation included: {seconds:.1f} s")
        return results

    return call
