"""Output directory of a conversion: its state on disk, lock and completion.

OUT/preparing/plan.json      the plan, until the data set is complete
OUT/preparing/SHARD          a shard while it is written
OUT/preparing/SHARD.broken   faults of the images left out of a shard, one per line
OUT/SHARD                    a complete shard
OUT/broken.txt               faults of all broken images, one per line
OUT/prepared.json            the plan, after the metadata is written
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from inception_jax.data.sources import SplitOptions
from inception_jax.errors import UserError
from inception_jax.system.atomic import atomic_write

PREPARING = "preparing"
BROKEN = "broken.txt"
_PLAN, _FINISHED = "plan.json", "prepared.json"


@dataclasses.dataclass(frozen=True)
class ConversionPlan:
    """Settings that determine which image is in which shard."""

    source: str
    """Kind and absolute path of the source."""
    shard_images: int
    """Images per shard; the last of a split may have fewer."""
    listing: str = ""
    """`Dataset.digest`; empty before the source is listed."""
    validation_fraction: float = SplitOptions.validation_fraction
    """Fraction of each class held out where the source has no validation split."""
    train_split: str | None = None
    """Name of the training split; None where it is found by its name."""
    validation_split: str | None = None
    """Name of the validation split, likewise."""


_SPLIT_FIELDS = ("validation_fraction", "train_split", "validation_split")


def check(out: Path, plan: ConversionPlan) -> bool:
    """Whether the directory already holds the complete data set.

    Args:
      out: The directory, which need not exist.
      plan: Wanted plan; an empty `listing` is not compared.

    Raises:
      UserError: the directory contains something else, or a data set with another plan.
    """
    if not out.exists():
        return False
    try:
        pending, finished = _read(out / PREPARING / _PLAN), _read(out / _FINISHED)
        if not pending and not finished and set(os.listdir(out)) - {PREPARING}:
            raise UserError(f"{out} is not empty and was not created by this command; give another directory.")
    except OSError as error:
        raise UserError(f"{out} cannot be used: {error.strerror}; give another directory.") from error
    for existing in (pending, finished):
        if existing:
            _compare(out, existing, plan)
    return finished is not None


@contextlib.contextmanager
def claim(out: Path, plan: ConversionPlan) -> Generator[None, None, None]:
    """Writes the plan and locks the directory; UserError where it is locked or cannot be written."""
    path = out / PREPARING / _PLAN
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with atomic_write(path) as text:
                text.write(json.dumps(dataclasses.asdict(plan), indent=2).encode() + b"\n")
        file = path.open("r+")
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}; give another directory.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is preparing {out}; wait for it or end it.") from error
        except OSError:
            pass  # some network file systems have no locks
        yield


def finish(out: Path) -> None:
    """Marks the data set as complete by renaming the plan, and removes temporary files."""
    os.replace(out / PREPARING / _PLAN, out / _FINISHED)
    clear(out)


def clear(out: Path) -> None:
    """Removes the temporary files of a complete data set."""
    shutil.rmtree(out / PREPARING, ignore_errors=True)


def _read(path: Path) -> ConversionPlan | None:
    if not path.is_file():
        return None
    try:
        return ConversionPlan(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is broken or of another version; delete the directory or give another.") from error


def _compare(out: Path, existing: ConversionPlan, wanted: ConversionPlan) -> None:
    def differs(field: str) -> bool:
        return getattr(existing, field) != getattr(wanted, field)

    if existing.source != wanted.source:
        difference = f"is made from {existing.source}, not {wanted.source}"
    elif existing.shard_images != wanted.shard_images:
        difference = f"has shards of {existing.shard_images} images, not {wanted.shard_images}"
    elif changed := [field for field in _SPLIT_FIELDS if differs(field)]:
        name = changed[0]
        difference = f"was split with {name} {getattr(existing, name)}, not {getattr(wanted, name)}"
    elif wanted.listing and existing.listing != wanted.listing:
        difference = f"was prepared when {wanted.source} had other images, classes or files"
    else:
        return
    raise UserError(f"{out} {difference}; give another directory, or delete this one.")
