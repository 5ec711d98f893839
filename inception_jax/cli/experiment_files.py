"""Experiment files, and the flags that override their fields."""

import contextlib
import importlib.util
import io
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from inception_jax import config
from inception_jax.cli import flag_values, packaged
from inception_jax.config import Experiment
from inception_jax.errors import UserError


def load_runs(path: str | Path) -> dict[str, Experiment]:
    """Runs of an experiment: executes a Python file with `runs() -> dict[str, Experiment]`.

    `path` is the file, or the name of a packaged experiment.
    """
    path = _file(Path(path))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; an experiment file ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # As `python FILE` does, for imports of neighbouring files.
    # For copies of packaged experiments that import others; last, so that it hides none of the user's files.
    sys.path.append(str(packaged.directory()))
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "runs"):
            raise UserError(f"{path} defines no runs(); an experiment file has runs() -> dict[str, Experiment].")
        found = module.runs()
    except UserError:
        raise
    except Exception as error:
        # The line in the user's file helps more than a traceback through this package.
        own = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path.resolve()]
        line = error.lineno if isinstance(error, SyntaxError) else next(reversed(own), None)
        message = error.msg if isinstance(error, SyntaxError) else error
        where = f"{path}, line {line}" if line else f"{path}"
        raise UserError(f"{where}: {type(error).__name__}: {message}") from error
    if not isinstance(found, dict) or not all(isinstance(e, Experiment) for e in found.values()) or not found:
        raise UserError(f"{path}: runs() must return a non-empty dictionary of names and Experiments.")
    return found


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    known = packaged.files()
    if str(path) in known:
        return known[str(path)]
    missing = f"there is no experiment file {path}" if path.suffix == ".py" else f"there is no experiment {path}"
    if path.suffix == ".py" and path.stem in known:
        raise UserError(f"{missing}; the packaged experiment is named {path.stem}.")
    if path.stem in load_runs(known["imagenet"]):
        raise UserError(f"{missing}; did you mean imagenet --run {path.stem}?")
    raise UserError(f"{missing}; give a Python file, or a packaged one: {', '.join(known)}.")


def choose_run(runs: dict[str, Experiment], name: str | None, path: str | Path) -> tuple[str, Experiment]:
    """The run `name`; None chooses the only one."""
    if name is None and len(runs) == 1:
        return next(iter(runs.items()))
    if name is None:
        raise UserError(f"{path} has several runs; choose one with --run: {', '.join(runs)}.")
    if name not in runs:
        raise UserError(f"{path} has no run {name!r}; it has {', '.join(runs)}.")
    return name, runs[name]


def override(experiment: Experiment, flags: Sequence[str], *, prog: str) -> Experiment:
    """Sets fields by flags such as `--optim.learning-rate 0.03`; UserError for a value that a field cannot have.

    An unknown flag ends the command, as in `parse`.
    """
    changed = parse(Experiment, flags, prog=prog, default=experiment)
    config.check(changed)
    return changed


def parse(type_: Any, args: Sequence[str], *, prog: str, **options: Any) -> Any:
    """Calls `tyro.cli`, which prints a message and exits with 2 for arguments that it cannot parse.

    A value of the wrong type is a UserError instead.
    """
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(type_, args=list(args), prog=prog, **options)
    except SystemExit as end:
        if end.code:
            flag_values.check_values(type_, args)
        print(stderr.getvalue(), end="", file=sys.stderr)
        raise
