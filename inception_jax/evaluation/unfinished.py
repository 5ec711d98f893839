"""An evaluation that is not at its end, on the disk, so that the same command goes on with it.

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

from inception_jax import whole
from inception_jax.errors import UserError
from inception_jax.evaluation.tally import Tally

DIRECTORY = "unfinished"
FACTS = "evaluation.json"

EVERY_SECONDS = 60.0
"""What a kill costs at most."""


class Unfinished:
    """What is kept of one evaluation; of several processes only the first has one."""

    def __init__(self, out: Path, facts: Mapping[str, Any]):
        """Takes up what is there; `facts` (JSON values) are what must be the same for that.

        Raises:
          UserError: what is there is another evaluation's; the message names what differs.
        """
        self._directory = out / DIRECTORY
        self._kept_at = time.monotonic()
        path = self._directory / FACTS
        text = json.dumps(facts, indent=2)
        self._what, wanted = hashlib.sha256(text.encode()).hexdigest()[:16], json.loads(text)
        if not path.exists():
            with whole.writing(path) as file:
                file.write(text.encode())
            return
        try:
            there = json.loads(path.read_text())
            differing = [key for key in wanted | there if wanted.get(key) != there.get(key)]
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} cannot be read: {error}; delete {self._directory} to begin anew.") from error
        if differing:
            raise UserError(
                f"{self._directory} holds another evaluation that is not at its end, with other "
                f"{', '.join(differing)}; end that one by its own command, give another --out, or delete the directory."
            )

    def restore(self, number: int, tally: Tally) -> int:
        """Puts into `tally` what is kept of pass `number`; returns how many batches that is."""
        batches = 0
        kept = sorted(self._directory.glob(f"{self._what}-{number}-*.npz"), key=_batches)
        for path in kept:
            try:
                with np.load(path, allow_pickle=False) as changes:
                    tally.restore(changes)
            except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
                raise UserError(
                    f"{path} is broken: {str(error).rstrip('.')}; delete {self._directory} to begin anew."
                ) from error
            batches = _batches(path)
        return batches

    def due(self) -> bool:
        """Whether it is time to keep something again."""
        return time.monotonic() - self._kept_at >= EVERY_SECONDS

    def keep(self, number: int, batches: int, tally: Tally) -> None:
        """Writes what changed in pass `number`, of which `tally` has `batches` batches; RunFailed if it cannot be."""
        with whole.writing(self._directory / f"{self._what}-{number}-{batches}.npz") as file:
            np.savez(file, allow_pickle=False, **tally.changes())
        self._kept_at = time.monotonic()


def clear(out: Path) -> None:
    """Deletes what is kept in `out`, its evaluation being at its end."""
    # The newest first: one that was killed here leaves no hole to go on past.
    for path in sorted((out / DIRECTORY).glob("*.npz"), key=_batches, reverse=True):
        path.unlink(missing_ok=True)
    shutil.rmtree(out / DIRECTORY, ignore_errors=True)


def _batches(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
