"""Checkpoints: of a run, to go on from, and exported ones, to use.

Both are directories of the same make (`sealed.py`) that are read only if every byte is what was written.
"""

from inception_jax.checkpoint.exported import FACTS, is_exported, load_variables, save_variables
from inception_jax.checkpoint.run import BROKEN, DIRECTORY, Checkpoints, Saved, newest, read
from inception_jax.checkpoint.sealed import BrokenCheckpoint

__all__ = [
    "BROKEN",
    "DIRECTORY",
    "FACTS",
    "BrokenCheckpoint",
    "Checkpoints",
    "Saved",
    "is_exported",
    "load_variables",
    "newest",
    "read",
    "save_variables",
]
