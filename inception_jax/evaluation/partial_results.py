"""Partial results of an interrupted evaluation, resumed by the same command.

    OUT/unfinished/evaluation.json          what is being evaluated
    OUT/unfinished/WHAT-PASS-BATCHES.npz    all that changed in a pass since the file before, as it stood after BATCHES

WHAT is a digest of evaluation.json, so that no evaluation ever takes up what another has left. Files are only added,
each as large as what is new, so that keeping costs the same at the end as at the beginning.
"""

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inception_jax.errors import UserError
from inception_jax.evaluation.accumulator import Accumulator
from inception_jax.system.atomic import atomic_write

DIRECTORY = "unfinished"
SETTINGS = "evaluation.json"

EVERY_SECONDS = 60.0
"""Interval of saving: the most that a kill costs."""


class PartialResults:
    """The saved partial results of one evaluation; only process 0 has them."""

    def __init__(self, out: Path, settings: Mapping[str, Any]):
        """Opens existing results, which must have been made with the same `settings` (JSON values).

        Raises:
          UserError: what is there is another evaluation's; the message names what differs.
        """
        self._directory = out / DIRECTORY
        self._kept_at = time.monotonic()
        path = self._directory / SETTINGS
        text = json.dumps(settings, indent=2)
        self._digest, expected = hashlib.sha256(text.encode()).hexdigest()[:16], json.loads(text)
        if not path.exists():
            with atomic_write(path) as file:
                file.write(text.encode())
            return
        try:
            found = json.loads(path.read_text())
            differing = [key for key in expected | found if expected.get(key) != found.get(key)]
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} cannot be read: {error}; delete {self._directory} to begin anew.") from error
        if differing:
            raise UserError(
                f"{self._directory} holds another evaluation that is not at its end, with other "
                f"{', '.join(differing)}; end that one by its own command, give another --out, or delete the directory."
            )

    def restore(self, pass_number: int, accumulator: Accumulator) -> int:
        """Restores the saved results of a pass into `accumulator`; returns their number of batches."""
        batches = 0
        parts = sorted(self._directory.glob(f"{self._digest}-{pass_number}-*.npz"), key=_batches)
        for path in parts:
            try:
                with np.load(path, allow_pickle=False) as changes:
                    accumulator.restore(changes)
            except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
                raise UserError(
                    f"{path} is broken: {str(error).rstrip('.')}; delete {self._directory} to begin anew."
                ) from error
            batches = _batches(path)
        return batches

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._kept_at >= EVERY_SECONDS

    def keep(self, pass_number: int, batches: int, accumulator: Accumulator) -> None:
        """Writes what changed in a pass of which `accumulator` has `batches` batches; RunFailed if it cannot be."""
        with atomic_write(self._directory / f"{self._digest}-{pass_number}-{batches}.npz") as file:
            np.savez(file, allow_pickle=False, **accumulator.changes())
        self._kept_at = time.monotonic()


def clear(out: Path) -> None:
    """Deletes the partial results in `out` when its evaluation is complete."""
    # The newest first: one that was killed here leaves no hole to go on past.
    for path in sorted((out / DIRECTORY).glob("*.npz"), key=_batches, reverse=True):
        path.unlink(missing_ok=True)
    shutil.rmtree(out / DIRECTORY, ignore_errors=True)


def _batches(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
