"""Predictions of finished networks, from which the same command resumes.

OUT/unfinished/DIGEST.npz   one network's predictions; DIGEST is a hash of the settings that determine them

An evaluation with other settings has other file names, and so never reads them.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inception_jax.errors import UserError
from inception_jax.evaluation import predictions
from inception_jax.evaluation.predictions import Predictions

DIRECTORY = "unfinished"


class FinishedNetworks:
    """Predictions of an evaluation's finished networks; used by process 0 only."""

    def __init__(self, out: str | None):
        """`out` is the evaluation's directory; with None nothing is kept."""
        self._directory = Path(out) / DIRECTORY if out else None
        self._files: set[Path] = set()

    def read(self, settings: Mapping[str, Any]) -> Predictions | None:
        """Reads the predictions of the network with these settings (JSON values); None if it is not finished."""
        path = self._path(settings)
        if path is None or not path.exists():
            return None
        self._files.add(path)
        try:
            return predictions.read(path)
        except UserError:
            return None  # Damaged: the network is run again.

    def write(self, settings: Mapping[str, Any], found: Predictions) -> None:
        """Writes the predictions of a network; raises RunFailed if that fails."""
        path = self._path(settings)
        if path:
            predictions.write(path, found)
            self._files.add(path)

    def clear(self) -> None:
        """Deletes the files read and written by this evaluation."""
        for path in self._files:
            path.unlink(missing_ok=True)
        if self._directory:
            # It may hold predictions of other evaluations, or not exist.
            with contextlib.suppress(OSError):
                self._directory.rmdir()

    def _path(self, settings: Mapping[str, Any]) -> Path | None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
        return self._directory / f"{digest}{predictions.SUFFIX}" if self._directory else None
