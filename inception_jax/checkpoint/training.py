"""Checkpoints of a run.

Each holds the state, the number of the next batch (the whole state of the data iterator) and the experiment. It is
written in the background; the newest ones and the best one are kept.

    RUN/checkpoints/STEP         complete checkpoints
    RUN/unfinished-checkpoints/  checkpoints being written or deleted; useless once the process has ended
    RUN/broken-checkpoints/STEP  broken checkpoints found when resuming; never read or deleted
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import shutil
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from inception_jax import config
from inception_jax.checkpoint import storage
from inception_jax.checkpoint.exported import is_exported
from inception_jax.errors import UserError
from inception_jax.system import hosts
from inception_jax.system.progress import say

DIRECTORY = "checkpoints"
UNFINISHED = "unfinished-checkpoints"
BROKEN = "broken-checkpoints"
METADATA = "run.json"
BEST = "best"
"""Stands for the step with the lowest validation error in RUN/checkpoints/best."""

# Top-1 error, as a fraction.
_CLEARLY_BETTER = 0.01


@dataclasses.dataclass(frozen=True)
class RunCheckpoint:
    """A verified checkpoint of a run."""

    path: Path
    step: int
    experiment: config.Experiment
    next_batch: int
    """Number of the batch to train on next."""
    class_names: tuple[str, ...] = ()
    """Classes in the order of the labels; empty in checkpoints written without them."""
    training_images: int | None = None
    """Number of training images; None in checkpoints written without it."""
    held_out: frozenset[int] = frozenset()
    """Images held out for validation, as `Source.held_out`; empty in checkpoints written without it."""
    unfrozen: bool = False
    """Whether the stages that were frozen at first are trained in this state."""
    class_weights: tuple[float, ...] | None = None
    """Factor on the loss of each class's images, in the order of the labels; None is no factor."""

    def state(self, template: Any) -> Any:
        """The state, as NumPy arrays in the tree of `template` (arrays or shapes); UserError if it does not match."""
        return storage.read_arrays(self.path, template)


def read(path: str | Path, *, best: bool = False) -> RunCheckpoint:
    """The checkpoint at a path: RUN, for its newest, RUN/checkpoints/STEP or RUN/checkpoints/best.

    Prints a line if the newest one of RUN is clearly worse than its best.

    Args:
      path: a run or a checkpoint.
      best: take the checkpoint of a run with the lowest validation error rather than its newest.

    Raises:
      UserError: there is none.
      BrokenCheckpoint: it is broken.
    """
    run, step = _locate(Path(path), best)
    try:
        storage.check(_step_directory(run, step))
    except storage.BrokenCheckpoint as error:
        others = " or ".join(str(_step_directory(run, other)) for other in reversed(_steps(run)) if other != step)
        raise storage.BrokenCheckpoint(
            f"{error}; {f'try {others}' if others else 'there is no other checkpoint'}."
        ) from error
    return _open_checkpoint(run, step)


def newest(run: str | Path, *, strict: bool = False) -> RunCheckpoint | None:
    """The newest intact checkpoint, the same on all processes; None if the run has no checkpoint.

    Newer, broken ones are moved to RUN/broken-checkpoints with a warning.

    Args:
      run: directory of the run.
      strict: raise if the newest checkpoint is broken.

    Raises:
      UserError: all checkpoints are broken, or the newest is and `strict` is set; nothing was moved.
    """
    run = Path(run).resolve()
    step = hosts.process_zero_decides(functools.partial(_newest_intact, run, strict))
    return None if step is None else _open_checkpoint(run, step)


def exists(run: str | Path) -> bool:
    """Whether a run has a checkpoint, intact or broken."""
    return bool(_steps(Path(run)))


def held_out(run: str | Path) -> frozenset[int]:
    """Images that a run has held out for validation, by its newest readable checkpoint; empty where there is none.

    Args:
      run: a run, or one of its checkpoints.
    """
    run = Path(run)
    run = run.parent.parent if run.parent.name == DIRECTORY else run
    for step in reversed(_steps(run)):
        with contextlib.suppress(UserError):
            return _open_checkpoint(run, step).held_out
    return frozenset()


class Checkpoints:
    """Writer of one run's checkpoints, in a background thread on process 0."""

    def __init__(
        self,
        run: str | Path,
        *,
        keep: int = 1,
        class_names: Sequence[str] = (),
        training_images: int | None = None,
        held_out: frozenset[int] = frozenset(),
        class_weights: Sequence[float] | None = None,
    ):
        """Removes unfinished checkpoints of `run`, which need not exist.

        Args:
          run: directory of the run.
          keep: number of newest checkpoints to keep, besides the best.
          class_names: classes in the order of the labels, stored in each checkpoint.
          training_images: number of training images, stored in each checkpoint.
          held_out: images held out for validation, as `Source.held_out`, stored in each checkpoint.
          class_weights: factor on the loss of each class's images, stored in each checkpoint.
        """
        run = Path(run).resolve()
        self._class_names, self._training_images = tuple(class_names), training_images
        self._held_out = sorted(held_out)
        self._class_weights = None if class_weights is None else list(class_weights)
        self._directory, self._unfinished, self._keep = run / DIRECTORY, run / UNFINISHED, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: tuple[int, Future[None]] | None = None
        if jax.process_index() == 0:
            self._remove_unfinished()

    def save(
        self,
        step: int,
        state: Any,
        *,
        next_batch: int,
        experiment: config.Experiment,
        top1_error: float | None,
        unfrozen: bool = False,
    ) -> None:
        """Copies the state and starts to write it; RunFailed if the previous checkpoint could not be written."""
        self.wait()
        if jax.process_index():
            return
        metadata = {
            "next_batch": next_batch,
            "experiment": config.to_dict(experiment),
            "class_names": list(self._class_names),
            "training_images": self._training_images,
            "held_out": self._held_out,
            "top1_error": top1_error,
            "unfrozen": unfrozen,
            "class_weights": self._class_weights,
        }
        # A copy on the host, because the next step overwrites the donated state.
        copy = jax.tree.map(lambda leaf: np.array(leaf), state)
        self._writing = step, self._thread.submit(self._write, step, copy, metadata)

    def wait(self) -> None:
        """Waits for the last checkpoint; RunFailed if it could not be written."""
        if self._writing is None:
            return
        (step, future), self._writing = self._writing, None
        try:
            future.result()
        except (OSError, ValueError) as error:
            raise storage.write_error(self._directory / str(step), error) from error

    def close(self) -> None:
        """Waits for the last checkpoint, as `wait` does, and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _remove_unfinished(self) -> None:
        if not self._unfinished.exists():
            return
        try:
            shutil.rmtree(self._unfinished)
        except OSError as error:
            raise UserError(f"{self._unfinished} cannot be deleted: {error.strerror}; delete it.") from error

    def _write(self, step: int, arrays: Any, metadata: dict[str, Any]) -> None:
        with storage.staging(self._unfinished) as place:
            storage.write(place / "new", arrays, METADATA, metadata)
            self._directory.mkdir(exist_ok=True)
            (place / "new").rename(self._directory / str(step))
            for old in self._outdated():
                # Moved before it is deleted: half of it would look like a broken checkpoint.
                (self._directory / str(old)).rename(place / str(old))

    def _outdated(self) -> list[int]:
        steps = _steps(self._directory.parent)
        errors = {step: _top1_error(self._directory / str(step)) for step in steps}
        best = min(steps, key=lambda step: errors[step])
        return [step for step in steps[: -self._keep] if step != best or errors[step] == math.inf]


def _best_step(run: Path) -> int:
    """The step with the lowest validation error; UserError where none was evaluated."""
    errors = {step: _top1_error(_step_directory(run, step)) for step in _steps(run)}
    step = min(errors, key=errors.__getitem__)
    if errors[step] == math.inf:
        raise UserError(f"{run} has no evaluated checkpoint, so none is the best; give RUN/{DIRECTORY}/STEP.")
    return step


def _say_if_clearly_worse(run: Path, step: int) -> None:
    errors = {other: _top1_error(_step_directory(run, other)) for other in _steps(run)}
    best = min(errors, key=errors.__getitem__)
    if _CLEARLY_BETTER <= errors[step] - errors[best] < math.inf:
        say(
            f"{run}: the newest checkpoint, of step {step}, has {errors[step]:.1%} validation error; the best, of step "
            f"{best}, has {errors[best]:.1%}: take it with --best, or as {run / DIRECTORY / BEST}."
        )


def _top1_error(directory: Path) -> float:
    """Top-1 error of a checkpoint; infinite if it has none or cannot be read."""
    try:
        error = storage.read_metadata(directory, METADATA)["top1_error"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return math.inf
    return math.inf if error is None else error


def _newest_intact(run: Path, strict: bool) -> int | None:
    broken: dict[int, storage.BrokenCheckpoint] = {}
    for step in reversed(_steps(run)):
        try:
            storage.check(_step_directory(run, step))
        except storage.BrokenCheckpoint as error:
            if strict:
                raise storage.BrokenCheckpoint(f"{error}; leave out --strict to resume from an older one.") from error
            broken[step] = error
        else:
            if broken:
                _quarantine(run, broken, step)
            return step
    if broken:
        why = "; ".join(map(str, broken.values()))
        raise UserError(
            f"{run} has no intact checkpoint: {why}; to start again, move {run / DIRECTORY} away or use another "
            "directory."
        )
    return None


def _quarantine(run: Path, broken: Mapping[int, storage.BrokenCheckpoint], intact: int) -> None:
    moves = []
    for step, error in broken.items():
        directory = _step_directory(run, step)
        names = itertools.chain([str(step)], (f"{step}-{number}" for number in itertools.count(2)))
        destination = next(run / BROKEN / name for name in names if not (run / BROKEN / name).exists())
        try:
            destination.parent.mkdir(exist_ok=True)
            # A directory without write permission cannot be moved to another parent.
            directory.chmod(directory.stat().st_mode | stat.S_IRWXU)
            directory.rename(destination)
        except OSError as problem:
            raise UserError(
                f"{error}; it could not be moved to {destination}: {problem.strerror}; move it away."
            ) from problem
        moves.append(f"{error} (moved to {destination})")
    say(f"warning: {'; '.join(moves)}; resuming from {_step_directory(run, intact)}.")


def _locate(path: Path, best: bool) -> tuple[Path, int]:
    run, step = path, None
    if path.parent.name == DIRECTORY and (path.name.isdecimal() or path.name == BEST):
        if best and path.name != BEST:
            raise UserError(f"{path} is one checkpoint; for the best one give the run, {path.parent.parent}.")
        run, best = path.parent.parent, path.name == BEST
        step = None if best else int(path.name)
    if is_exported(path):
        raise UserError(f"{path} is an imported or exported checkpoint; give a run, or RUN/{DIRECTORY}/STEP.")
    if not (run / DIRECTORY).is_dir():
        raise UserError(f"{path} holds no checkpoint; give a run, or RUN/{DIRECTORY}/STEP.")
    found = _steps(run)
    if not found or step not in (None, *found):
        raise UserError(f"{path} is not a checkpoint; {run} has {', '.join(map(str, found)) or 'none'}.")
    run = run.resolve()
    if best:
        return run, _best_step(run)
    if step is None:
        _say_if_clearly_worse(run, found[-1])
    return run, found[-1] if step is None else step


def _steps(run: Path) -> list[int]:
    """Steps of a run's checkpoints, intact or broken, in ascending order."""
    try:
        return sorted(int(path.name) for path in (run / DIRECTORY).iterdir() if path.name.isdecimal())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{run / DIRECTORY} cannot be read: {error.strerror}.") from error


def _step_directory(run: Path, step: int) -> Path:
    return run / DIRECTORY / str(step)


def _open_checkpoint(run: Path, step: int) -> RunCheckpoint:
    path = _step_directory(run, step)
    try:
        metadata = storage.read_metadata(path, METADATA)
        weights = metadata.get("class_weights")
        return RunCheckpoint(
            path,
            step,
            config.from_dict(metadata["experiment"]),
            metadata["next_batch"],
            tuple(metadata.get("class_names", ())),
            metadata.get("training_images"),
            frozenset(metadata.get("held_out", ())),
            metadata.get("unfrozen", False),
            None if weights is None else tuple(map(float, weights)),
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}/{METADATA} describes no run of this version: {error}") from error
