"""Cost of saving checkpoints in training, from alternating repeats with and without a save."""

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from typing import Any

import jax

from inception_jax import build, checkpoint, steps
from inception_jax.config import Experiment
from inception_jax.system.memory import peak_megabytes


@dataclasses.dataclass(frozen=True)
class SaveReport:
    """Cost of saving; medians over the repeats."""

    run: str
    state_bytes: int
    """Bytes of the state that a checkpoint holds."""
    step_seconds: float
    """Duration of a step without a save."""
    save_seconds: float
    """Extra time per save, the slowdown of overlapping steps included."""
    blocked_seconds: float
    """Part of `save_seconds` in which the state is copied and no step can be launched."""
    written_after_seconds: float
    """Time from a save to the checkpoint on disk, while no step runs."""
    checkpoint_every: int
    """Steps between two saves in this run."""
    share: float
    """Fraction of the training time spent on saving at that interval."""
    growth_megabytes: float
    """Increase of the process' peak memory due to saving, in 1,000,000 bytes."""


def benchmark(experiment: Experiment, name: str, *, seconds: float, repeats: int) -> SaveReport:
    """Measures on all devices of this machine, in a temporary directory.

    Args:
      experiment: experiment to train on its own data; nothing is kept.
      name: name of the run.
      seconds: duration of the steps with a save, and of those without, in each repeat.
      repeats: number of repeats.
    """
    images = build.source(experiment, "train")
    experiment = build.with_classes(experiment, len(images.class_names))
    with contextlib.ExitStack() as opened:
        directory = opened.enter_context(tempfile.TemporaryDirectory())
        checkpoints = opened.enter_context(contextlib.closing(checkpoint.Checkpoints(directory, keep=1)))
        training = opened.enter_context(contextlib.closing(_train(experiment, images)))
        next(training)  # compiles
        step, state = _step_seconds(training, seconds)
        count = max(2, round(seconds / step))
        plain, saving, blocked, written, before = [], [], [], [], peak_megabytes()
        for repeat in range(repeats):
            taken, state = _time_steps(training, count)
            plain.append(taken)
            begin = time.perf_counter()
            checkpoints.save(2 * repeat + 1, state, next_batch=0, experiment=experiment, top1_error=None)
            blocked.append(time.perf_counter() - begin)
            taken, state = _time_steps(training, count)
            saving.append(blocked[-1] + taken)
            checkpoints.wait()
            begin = time.perf_counter()
            checkpoints.save(2 * repeat + 2, state, next_batch=0, experiment=experiment, top1_error=None)
            checkpoints.wait()
            written.append(time.perf_counter() - begin)
    cost = max(0.0, statistics.median(saving) - statistics.median(plain))
    step = statistics.median(plain) / count
    every = experiment.train.checkpoint_every
    return SaveReport(
        run=name,
        state_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        step_seconds=step,
        save_seconds=cost,
        blocked_seconds=statistics.median(blocked),
        written_after_seconds=statistics.median(written),
        checkpoint_every=every,
        share=cost / (cost + every * step),
        growth_megabytes=peak_megabytes() - before,
    )


def table(report: SaveReport) -> str:
    """The report as text."""
    step, save, blocked, written = (
        f"{seconds * 1e3:>10,.1f} ms"
        for seconds in (report.step_seconds, report.save_seconds, report.blocked_seconds, report.written_after_seconds)
    )
    return "\n".join(
        [
            f"{report.run}: checkpoints of {report.state_bytes / 1e6:,.1f} MB",
            f"{'a step':<24}{step}",
            f"{'a save':<24}{save} more",
            f"{'  blocking':<24}{blocked}",
            f"{'written after':<24}{written}",
            f"{f'every {report.checkpoint_every:,} steps':<24}{report.share:>10.2%} of the time",
            f"{'memory':<24}{report.growth_megabytes:>10,.0f} MB more at peak",
        ]
    )


def _train(experiment: Experiment, images: Any) -> Generator[steps.TrainState, None, None]:
    """Yields the state after each completed step."""
    setup = build.build(experiment, len(images))
    state = setup.initial_state()
    with contextlib.closing(build.train_batches(experiment, images, 0)) as batches:
        for batch in batches:
            state, _ = setup.train_step(state, batch)
            yield jax.block_until_ready(state)


def _time_steps(training: Iterator[steps.TrainState], count: int) -> tuple[float, steps.TrainState]:
    begin = time.perf_counter()
    for _ in range(count):
        state = next(training)
    return time.perf_counter() - begin, state


def _step_seconds(training: Iterator[steps.TrainState], seconds: float) -> tuple[float, steps.TrainState]:
    """Mean duration of a step, measured for about `seconds`, and the last state."""
    begin, taken = time.perf_counter(), 0
    while True:
        state = next(training)
        taken += 1
        if time.perf_counter() - begin > seconds:
            return (time.perf_counter() - begin) / taken, state
