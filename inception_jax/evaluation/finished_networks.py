"""Predictions of the networks that are done, so that the same command does not run them again.

OUT/unfinished/DIGEST.npz   of one network, as `predictions` writes them; DIGEST is of all that its numbers depend on

No evaluation ever takes up what another has left: that has other names.
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
    """The networks of one evaluation that are done; used by process 0 alone."""

    def __init__(self, out: str | None):
        """`out` is the evaluation's directory; with None nothing is kept."""
        self._directory = Path(out) / DIRECTORY if out else None
        self._files: set[Path] = set()

    def read(self, settings: Mapping[str, Any]) -> Predictions | None:
        """The predictions of the network with these settings (JSON values), if it is done."""
        path = self._path(settings)
        if path is None or not path.exists():
            return None
        self._files.add(path)
        try:
            return predictions.read(path)
        except UserError:
            return None  # Damaged: to run the network again is all that can be done.

    def write(self, settings: Mapping[str, Any], found: Predictions) -> None:
        """Keeps the predictions of a network; RunFailed if that fails."""
        path = self._path(settings)
        if path:
            predictions.write(path, found)
            self._files.add(path)

    def clear(self) -> None:
        """Deletes what was read and written, when the evaluation is complete."""
        for path in self._files:
            path.unlink(missing_ok=True)
        if self._directory:
            # Others' predictions, or nothing, may be in it.
            with contextlib.suppress(OSError):
                self._directory.rmdir()

    def _path(self, settings: Mapping[str, Any]) -> Path | None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
        return self._directory / f"{digest}{predictions.SUFFIX}" if self._directory else None
