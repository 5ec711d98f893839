"""Checkpoints: those of a run, to resume from, and exported ones, for inference.

Both are checksummed directories (`storage.py`) that are read only if every byte is what was written.
"""

from inception_jax.checkpoint.exported import METADATA, check_place, is_exported, load_variables, save_variables
from inception_jax.checkpoint.storage import BrokenCheckpoint
from inception_jax.checkpoint.training import BROKEN, DIRECTORY, Checkpoints, RunCheckpoint, newest, read

__all__ = [
    "BROKEN",
    "DIRECTORY",
    "METADATA",
    "BrokenCheckpoint",
    "Checkpoints",
    "RunCheckpoint",
    "check_place",
    "is_exported",
    "load_variables",
    "newest",
    "read",
    "save_variables",
]
