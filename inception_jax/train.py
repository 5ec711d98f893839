"""Training one run: `fit` reads from top to bottom as what happens."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from inception_jax import build, checkpoint, config, hosts, runs, workdir
from inception_jax.config import Experiment
from inception_jax.errors import RunFailed, UserError
from inception_jax.loop import Loop
from inception_jax.models.network import Network
from inception_jax.preemption import Preemption
from inception_jax.progress import say


def fit(
    experiment: Experiment,
    directory: str | Path,
    *,
    name: str = "run",
    preemption: Preemption | None = None,
    strict: bool = False,
) -> runs.Run:
    """Trains a run to its end in `directory`, going on from the newest checkpoint there.

    Args:
      experiment: what to train.
      directory: of the run; made if need be. One that holds another experiment is refused, its differences named.
      name: of the run, for the eyes of people.
      preemption: with an open context, SIGTERM ends the run after its step; otherwise signals are left as they are.
      strict: stop at a broken newest checkpoint rather than go on from an older one.

    Returns:
      The finished run.

    Raises:
      UserError: the experiment, its data or the directory's contents do not allow it.
      RunFailed: the loss or a gradient is not finite, or a checkpoint could not be written.
      Preempted: SIGTERM came; the run is saved.
    """
    directory = Path(directory)
    config.check(experiment)
    build.check_batches(experiment)
    hosts.check_shared(directory)
    training, validation = build.source(experiment, "train"), build.source(experiment, "validation")
    experiment = build.with_classes(experiment, len(training.class_names))
    refuse_another_experiment(directory, experiment)
    plan = build.plan(experiment, len(training))

    network = build.model(experiment)
    with _alone(directory):
        saved = checkpoint.newest(directory, strict=strict)
        start = saved.step if saved else 0
        facts = {"checkpoint": start, "training images": len(training), "validation images": len(validation)}
        hosts.check_agreement({**config.shared_fields(experiment), **facts})
        if start >= plan.steps:
            say(f"{name}: {directory} is already trained to step {start}; nothing is left to do.")
            return runs.read_run(directory)
        _check_room(directory, experiment, network)
        with contextlib.closing(checkpoint.Checkpoints(directory, keep=experiment.train.keep)) as checkpoints:
            asked = preemption or Preemption()
            loop = Loop(experiment, directory, name, plan, network, checkpoints, saved, training, validation, asked)
            state, next_batch = loop.first_state()
            loop.introduce()
            loop.go(state, next_batch)
    return runs.read_run(directory)


def fit_all(
    experiments: Mapping[str, Experiment],
    directory: str | Path,
    *,
    preemption: Preemption | None = None,
    strict: bool = False,
) -> tuple[list[Path], list[str]]:
    """Trains each run in a directory of its name; returns the directories and what stopped the runs that failed."""
    failed = []
    for name, experiment in experiments.items():
        try:
            fit(experiment, Path(directory) / name, name=name, preemption=preemption, strict=strict)
        except RunFailed as error:
            failed.append(f"{name}: {error}")
    return [Path(directory) / name for name in experiments], failed


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Holds the directory in the first process; what that one is refused, all are, who would wait for it otherwise."""
    with contextlib.ExitStack() as held:

        def hold() -> None:
            workdir.check_writable(directory)
            held.enter_context(workdir.hold(directory, report=say))

        hosts.first_alone(hold)
        yield


def _check_room(directory: Path, experiment: Experiment, network: Network) -> None:
    """Raises UserError where the disk has no room for the checkpoints that are kept and one that is being written."""
    state = build.state_shapes(experiment, network)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    there = len(list((directory / checkpoint.DIRECTORY).glob("[0-9]*")))
    # The newest, the best one, and one that is written before another is removed.
    needed = size * max(experiment.train.keep + 2 - there, 1)
    hosts.first_alone(lambda: workdir.check_writable(directory, needed))


def keep_compiled(directory: str | Path) -> None:
    """Keeps compiled programs in `directory`/.compilation-cache, so that a second start is quick.

    A user's own cache, as by JAX_COMPILATION_CACHE_DIR, and what is kept in it stay as they are.
    """
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(Path(directory).resolve() / ".compilation-cache"))
        # Small programs too, of which a start has dozens: by default those of under a second are compiled every time.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


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
