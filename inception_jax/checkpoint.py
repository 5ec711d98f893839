"""A run's checkpoints: the only file that says orbax.

A checkpoint holds the state, the number of the next batch (which is all there is to the data iterator) and the
experiment. It is written asynchronously; the newest ones and the best one are kept.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from inception_jax import config
from inception_jax.errors import UserError

DIRECTORY = "checkpoints"
FACTS = "checkpoint.json"
VARIABLES = "variables"


class Checkpoints:
    """The checkpoints of one run's directory."""

    def __init__(self, run: str | Path, *, keep: int = 1):
        """Opens RUN/checkpoints, which need not exist; keeps the `keep` newest and the best."""
        logging.set_verbosity(logging.ERROR)
        newest = policies.LatestN(keep)
        best = policies.BestN(get_metric_fn=_error, reverse=True, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            (Path(run) / DIRECTORY).resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy([newest, best]),
                best_fn=_error,  # only so that orbax keeps the metrics on disk
                best_mode="min",
                cleanup_tmp_directories=True,
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """The newest checkpoint's step; None without checkpoints."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: Any, *, next_batch: int, experiment: config.Experiment, top1_error: float | None
    ) -> None:
        """Copies the state and starts writing it; an error in the writing before is raised here at the latest."""
        facts = {"next_batch": next_batch, "experiment": config.to_dict(experiment)}
        # A copy on the host: the next step overwrites the donated state while this one is still being written, and
        # orbax does not take arrays that are replicated over the devices of several processes.
        copy = jax.tree.map(lambda leaf: np.array(leaf), state)
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(copy), facts=ocp.args.JsonSave(facts)),
            metrics=None if top1_error is None else {"top1_error": top1_error},
            force=True,
        )

    def restore(self, step: int, template: Any) -> Any:
        """The state of a step, as NumPy arrays in the tree of `template` (arrays or shapes)."""
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), template)
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes))).state

    def facts(self, step: int) -> tuple[config.Experiment, int]:
        """The experiment and the number of the next batch that a checkpoint was saved with."""
        facts = self._manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
        return config.from_dict(facts["experiment"]), facts["next_batch"]

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.close()


def save_variables(directory: str | Path, variables: Any, facts: Mapping[str, Any]) -> None:
    """Writes "params" and "batch_stats" and what is to be known of them (JSON values), whole or not at all.

    What `directory` held before, if it was such a checkpoint, is replaced.
    """
    directory = Path(directory).absolute()
    if directory.exists() and not is_exported(directory):
        raise UserError(f"{directory} exists and is not an exported checkpoint; give a new directory.")
    with tempfile.TemporaryDirectory(dir=_made(directory.parent), prefix=f".{directory.name}-") as temporary:
        new = Path(temporary) / "new"
        copy = jax.tree.map(np.array, dict(variables))
        with ocp.StandardCheckpointer() as writer:
            writer.save(new / VARIABLES, copy)
        (new / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
        if directory.exists():
            directory.rename(Path(temporary) / "old")
        new.rename(directory)


def load_variables(directory: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables, as NumPy arrays, and the facts that `save_variables` wrote."""
    directory = Path(directory).absolute()
    try:
        facts = json.loads((directory / FACTS).read_text())
        with ocp.StandardCheckpointer() as reader:
            variables = reader.restore(directory / VARIABLES)
    except (OSError, ValueError) as error:
        raise UserError(f"{directory} is not a readable checkpoint: {error}") from error
    return jax.tree.map(np.asarray, variables), facts


def is_exported(directory: str | Path) -> bool:
    """Whether a directory is a checkpoint of `save_variables`."""
    return (Path(directory) / FACTS).is_file()


def locate(path: str | Path) -> tuple[Path, int]:
    """The run's directory and the step that a path names: RUN (its newest checkpoint) or RUN/checkpoints/STEP."""
    path = Path(path)
    if path.parent.name == DIRECTORY and path.name.isdigit():
        run, step = path.parent.parent, int(path.name)
    else:
        run, step = path, None
    if is_exported(path):
        raise UserError(f"{path} is an imported or exported checkpoint; this needs a run, or RUN/{DIRECTORY}/STEP.")
    if not (run / DIRECTORY).is_dir():
        raise UserError(f"{path} holds no checkpoint: give a run's directory, or RUN/{DIRECTORY}/STEP.")
    found = sorted(int(p.name) for p in (run / DIRECTORY).iterdir() if p.name.isdigit())
    if not found or step not in (None, *found):
        raise UserError(f"{path} is not a checkpoint; {run} has {', '.join(map(str, found)) or 'none'}.")
    return run, found[-1] if step is None else step


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _error(metrics: Any) -> float:
    return metrics["top1_error"]
