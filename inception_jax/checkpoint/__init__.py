"""Checkpoints of runs, to resume from, and exported checkpoints, for inference.

Both are checksummed directories (`storage.py`), verified before they are read.
"""

from inception_jax.checkpoint.exported import METADATA, check_place, is_exported, load_variables, save_variables
from inception_jax.checkpoint.storage import BrokenCheckpoint
from inception_jax.checkpoint.training import (
    BROKEN,
    DIRECTORY,
    Checkpoints,
    RunCheckpoint,
    exists,
    held_out,
    newest,
    read,
)

__all__ = [
    "BROKEN",
    "DIRECTORY",
    "METADATA",
    "BrokenCheckpoint",
    "Checkpoints",
    "RunCheckpoint",
    "check_place",
    "exists",
    "held_out",
    "is_exported",
    "load_variables",
    "newest",
    "read",
    "save_variables",
]
