"""Training of one run: checks and restoring before the loop."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import flax
import jax

from inception_jax import build, checkpoint, config, runs
from inception_jax.benchmark import fitting_batch
from inception_jax.build import Setup
from inception_jax.config import Experiment
from inception_jax.data.sources import Source, describe_layout
from inception_jax.errors import RunFailed
from inception_jax.models.initialize import variable_shapes
from inception_jax.models.summary import count_parameters, summarize
from inception_jax.system import hosts
from inception_jax.system.preemption import Preemption
from inception_jax.system.progress import say
from inception_jax.system.workdir import check_place, check_writable, lock_workdir
from inception_jax.train import advice, loop, start
from inception_jax.train.class_weights import describe, describe_sampling
from inception_jax.train.metrics_log import MetricsLog


def fit(
    experiment: Experiment,
    workdir: str | Path,
    *,
    name: str = "run",
    preemption: Preemption | None = None,
    strict: bool = False,
    recipe: Experiment | None = None,
) -> runs.Run:
    """Trains a run to its end, resuming from the newest checkpoint in `workdir`.

    Args:
      experiment: the experiment to train.
      workdir: directory of the run, created if necessary; must not hold a run of another experiment.
      name: display name of the run.
      preemption: if its context is open, SIGTERM stops the run after the current step; otherwise signals are left
        alone.
      strict: stop at a broken newest checkpoint rather than resume from an older one.
      recipe: the experiment before fields were set by hand, for advice on its learning rate with another batch.

    Returns:
      The finished run.

    Raises:
      UserError: the experiment, its data or the contents of `workdir` are invalid.
      RunFailed: the loss or a gradient is not finite, or a checkpoint could not be written.
      Preempted: SIGTERM arrived; the run is saved.
    """
    workdir = Path(workdir)
    config.check(experiment)
    check_place(workdir, experiment.data.source)
    hosts.check_shared(workdir)
    notes: list[str] = []
    experiment, weights = start.settle(experiment, workdir, notes.append)
    build.check_batches(experiment)
    held_out = checkpoint.held_out(workdir)
    training, validation = start.open_images(experiment, workdir, held_out)
    experiment, by_class = start.complete(experiment, training, workdir, notes.append)
    setup = build.build(experiment, len(training), by_class)  # Raises for an invalid model before anything is written.
    with _lock_on_process_zero(workdir):
        saved = checkpoint.newest(workdir, strict=strict)
        step = saved.step if saved else 0
        found = {"checkpoint": step, "training images": len(training), "validation images": len(validation)}
        hosts.check_agreement({**config.shared_fields(experiment), **found, "class weights": by_class})
        if saved:
            training, validation = start.same_data(saved, experiment, training, validation, notes.append)
            by_class = saved.class_weights
            setup = build.build(experiment, len(training), by_class)
            start.check_length(setup, saved, workdir)
        if saved and _is_trained(setup, workdir, step):
            say(f"{name}: {workdir} is already trained to step {step}.")
            return runs.read_run(workdir)
        _check_disk_space(workdir, setup)
        hosts.on_process_zero(lambda: fitting_batch.check(experiment, notes.append))
        if not saved:
            notes += advice.advise(experiment, setup.plan, recipe)
        with contextlib.closing(
            checkpoint.Checkpoints(
                workdir,
                keep=experiment.train.keep,
                class_names=training.class_names,
                training_images=len(training),
                # Those that are gone too, which may come back.
                held_out=held_out | training.held_out,
                class_weights=by_class,
            )
        ) as checkpoints:
            state = start.first_state(setup, saved, weights, training, notes.append)
            if jax.process_index() == 0:
                notes[:0] = _describe_data(experiment, training, by_class, resumed=bool(saved))
                _write_header(setup, workdir, name, step, training, validation, notes)
            with contextlib.closing(MetricsLog(setup, workdir, name, step)) as log:
                run = loop.TrainingRun(
                    setup, training, validation, workdir, checkpoints, log, preemption or Preemption()
                )
                loop.train(run, state, saved)
    return runs.read_run(workdir)


def fit_all(
    experiments: Mapping[str, Experiment],
    workdir: str | Path,
    *,
    preemption: Preemption | None = None,
    strict: bool = False,
    recipes: Mapping[str, Experiment] | None = None,
) -> tuple[list[Path], list[str]]:
    """Trains each run in the directory `workdir`/NAME; returns the directories and the messages of failed runs.

    `recipes` has the `recipe` of each run, as for `fit`.
    """
    recipes = recipes or {}
    failed = []
    for name, experiment in experiments.items():
        try:
            fit(
                experiment,
                Path(workdir) / name,
                name=name,
                preemption=preemption,
                strict=strict,
                recipe=recipes.get(name),
            )
        except RunFailed as error:
            failed.append(f"{name}: {error}")
        # The programs of a run stay loaded, a thousand memory maps of the 65,530 that Linux allows a process.
        jax.clear_caches()
    return [Path(workdir) / name for name in experiments], failed


def _write_header(
    setup: Setup, workdir: Path, name: str, start: int, training: Source, validation: Source, notes: Sequence[str]
) -> None:
    """Writes config.json and prints the header of the run and `notes`."""
    experiment, size = setup.experiment, setup.experiment.data.image_size
    batch, devices = experiment.train.batch_size, jax.device_count()
    info = runs.RunInfo(
        name=name,
        steps=setup.plan.steps,
        training_images=len(training),
        validation_images=len(validation),
        parameters=count_parameters(variable_shapes(setup.model, size)["params"]),
        multiply_adds=sum(row.multiply_adds for row in summarize(setup.model, size)),
        machine=f"{devices} x {jax.devices()[0].device_kind}, JAX {jax.__version__}, Flax {flax.__version__}",
    )
    runs.write_config(workdir, info, experiment)
    say(
        f"{info.name}: {experiment.model.name}, {info.parameters:,} parameters, "
        f"{info.multiply_adds / 1e6:,.0f} M multiply-adds per image; {info.training_images:,} training and "
        f"{info.validation_images:,} validation images; steps {start} to {info.steps}\n"
        f"  learning rate {config.learning_rate(experiment.optim, batch):g} for the global batch of {batch} images = "
        f"{_division(batch, experiment.train.replicas)}; {info.machine}"
    )
    for note in notes:
        say(f"  {note}")


def _describe_data(
    experiment: Experiment, training: Source, weights: Sequence[float] | None, *, resumed: bool
) -> Iterator[str]:
    """Lines about the images, and about how their classes are balanced."""
    yield describe_layout(experiment.data.source, training)
    yield from training.layout.notes
    if weights is not None:
        yield describe(weights, training.class_names, resumed=resumed)
    if experiment.data.sampling == "balanced":
        yield describe_sampling(training)


def _is_trained(setup: Setup, workdir: Path, step: int) -> bool:
    """Whether the run ends at `step`, that of its newest checkpoint, by its length or its patience."""
    earlier = [m for m in runs.read_metrics(workdir) if m["step"] <= step]
    return step >= setup.plan.steps or runs.is_out_of_patience(earlier, setup.experiment.train.patience)


def _division(batch: int, replicas: int | str | None) -> str:
    """Division of the batch between devices and replicas, in words."""
    devices = jax.device_count()
    parts = f"{devices} device{'s' * (devices > 1)}"
    if replicas in (None, devices):
        return f"{parts} x {batch // devices}"
    assert isinstance(replicas, int)
    return f"{replicas} replicas x {batch // replicas} on {parts}"


@contextlib.contextmanager
def _lock_on_process_zero(workdir: Path) -> Iterator[None]:
    """Locks the directory on process 0; a UserError is raised on every process, so that none hangs."""
    with contextlib.ExitStack() as stack:

        def lock() -> None:
            check_writable(workdir)
            stack.enter_context(lock_workdir(workdir, report=say))

        hosts.on_process_zero(lock)
        yield


def _check_disk_space(workdir: Path, setup: Setup) -> None:
    """Raises UserError if the disk lacks space for the checkpoints to keep and the one being written."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(setup.phase(unfrozen=True).state_shapes()))
    existing = len(list((workdir / checkpoint.DIRECTORY).glob("[0-9]*")))
    # The `keep` newest, the best, and the one being written before an old one is removed.
    needed = size * max(setup.experiment.train.keep + 2 - existing, 1)
    hosts.on_process_zero(lambda: check_writable(workdir, needed))


def enable_compilation_cache(workdir: str | Path) -> None:
    """Caches compiled programs in `workdir`/.compilation-cache, unless the user has set a cache of their own."""
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(Path(workdir).resolve() / ".compilation-cache"))
        # A start compiles dozens of small programs; by default those that take under a second are not cached.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
