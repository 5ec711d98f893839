"""Training one run: `fit` reads from top to bottom as what happens."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import jax

from inception_jax import build, checkpoint, config, runs
from inception_jax.config import Experiment
from inception_jax.errors import RunFailed, UserError
from inception_jax.loop import Loop
from inception_jax.progress import say


def fit(experiment: Experiment, directory: str | Path, *, name: str = "run", strict: bool = False) -> runs.Run:
    """Trains a run to its end in `directory`, going on from the newest checkpoint there.

    Args:
      experiment: what to train.
      directory: of the run; made if need be. One that holds another experiment is refused, its differences named.
      name: of the run, for the eyes of people.
      strict: stop at a broken newest checkpoint rather than go on from an older one.

    Returns:
      The finished run.

    Raises:
      UserError: the experiment, its data or the directory's contents do not allow it.
      RunFailed: the loss or a gradient is not finite, or a checkpoint could not be written.
    """
    directory = Path(directory)
    config.check(experiment)
    build.check_batches(experiment)
    training, validation = build.source(experiment, "train"), build.source(experiment, "validation")
    experiment = build.with_classes(experiment, len(training.class_names))
    refuse_another_experiment(directory, experiment)
    plan = build.plan(experiment, len(training))

    network = build.model(experiment)
    saved = checkpoint.newest(directory, strict=strict)
    if saved and saved.step >= plan.steps:
        say(f"{name}: {directory} is already trained to step {saved.step}; nothing is left to do.")
    else:
        with contextlib.closing(checkpoint.Checkpoints(directory, keep=experiment.train.keep)) as checkpoints:
            loop = Loop(experiment, directory, name, plan, network, checkpoints, training, validation, saved)
            state, next_batch = loop.first_state()
            loop.introduce()
            loop.go(state, next_batch)
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
        named = ", ".join(
            f"{field} is {here!r} here and {there!r} there" for field, (here, there) in differences.items()
        )
        raise UserError(f"{directory} holds another experiment: {named}; use its settings or another --workdir.")
