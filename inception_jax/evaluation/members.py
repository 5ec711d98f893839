"""Members of an ensemble: trained networks with their weights, description and preprocessing."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from inception_jax import checkpoint
from inception_jax.checkpoint.storage import CHECKSUMS
from inception_jax.config import DataConfig
from inception_jax.data import Protocol
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import UserError
from inception_jax.evaluation.predictions import Model
from inception_jax.models import describe
from inception_jax.models.network import Network
from inception_jax.weights.checkpoint import from_run, load_checkpoint


@dataclasses.dataclass(frozen=True)
class Member:
    """A trained network to be evaluated."""

    description: Model
    model: Network
    variables: dict[str, Any]
    """NumPy arrays."""
    preprocessing: Preprocessing
    data: DataConfig | None
    """The data that a run was trained on; None for other checkpoints."""

    @property
    def num_classes(self) -> int:
        """Number of classes, the background not counted."""
        return self.model.num_classes - self.preprocessing.label_offset


def load_member(path: str, protocol: Protocol, *, raw: bool, image_size: int | None) -> Member:
    """Loads a run (its newest checkpoint), RUN/checkpoints/STEP, or an imported or exported checkpoint.

    Args:
      path: of it.
      protocol: which crops it will be shown.
      raw: take a run's parameters as they are trained rather than averaged.
      image_size: of the input, if not its own.

    Raises:
      UserError: there is none, or it is not whole, or it has no classes.
    """
    saved = None if checkpoint.is_exported(path) else checkpoint.read(path)
    # By its step from here on: a run in training may write another at any moment.
    directory = saved.path if saved else Path(path)
    model, variables, preprocessing = from_run(saved, raw=raw) if saved else load_checkpoint(directory)
    if "classifier" not in variables["params"]:
        raise UserError(f"{path} has no classifier, so there are no classes to evaluate.")
    preprocessing = dataclasses.replace(preprocessing, image_size=image_size or preprocessing.image_size)
    description = Model(
        path=path,
        network=describe(model),
        step=saved.step if saved else None,
        parameters=("raw" if raw else "averaged") if saved else None,
        checksum=hashlib.sha256((directory / CHECKSUMS).read_bytes()).hexdigest(),
        crops=protocol.crops,
        scales=protocol.scales,
        views=protocol.total,
        image_size=preprocessing.image_size,
        central_fraction=preprocessing.central_fraction,
        resize=preprocessing.resize,
    )
    return Member(description, model, variables, preprocessing, saved.experiment.data if saved else None)
