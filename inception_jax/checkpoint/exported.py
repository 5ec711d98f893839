"""Exported checkpoints: variables for inference, with metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from inception_jax.checkpoint import storage
from inception_jax.errors import UserError
from inception_jax.system.atomic import refuse_existing

METADATA = "checkpoint.json"


def save_variables(directory: str | Path, variables: Any, metadata: Mapping[str, Any]) -> None:
    """Writes "params" and "batch_stats" with metadata (JSON values) atomically, replacing an exported checkpoint.

    Raises:
      UserError: `directory` exists and is not an exported checkpoint.
      RunFailed: it could not be written.
    """
    directory = Path(directory).absolute()
    check_place(directory, overwrite=True)
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    try:
        for old in unfinished.glob("*/old"):
            # A process was killed between the two renames below.
            if not directory.exists():
                old.rename(directory)
        with storage.staging(unfinished) as place:
            storage.write(place / "new", jax.tree.map(np.array, dict(variables)), METADATA, metadata)
            if directory.exists():
                directory.rename(place / "old")
            (place / "new").rename(directory)
    except (OSError, ValueError) as error:
        raise storage.write_error(directory, error) from error


def check_place(directory: Path, *, overwrite: bool) -> None:
    """Raises UserError where `directory` exists, unless it is an exported checkpoint that may be overwritten."""
    if directory.exists() and not is_exported(directory):
        raise UserError(f"{directory} exists and is not an exported checkpoint; give a new directory.")
    refuse_existing(directory, overwrite=overwrite)


def load_variables(directory: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables, as NumPy arrays, and metadata written by `save_variables`; UserError if the checkpoint is broken."""
    directory = Path(directory).absolute()
    storage.check(directory)
    return storage.read_arrays(directory), storage.read_metadata(directory, METADATA)


def is_exported(directory: str | Path) -> bool:
    """Whether a directory is an exported checkpoint."""
    return (Path(directory) / METADATA).is_file()
