"""A trained network as an evaluation needs it: its weights, what it is, and how it wants its images."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from inception_jax import checkpoint, inference
from inception_jax.checkpoint.sealed import SUMS
from inception_jax.config import DataConfig
from inception_jax.data import Protocol
from inception_jax.data.preparation import Preparation
from inception_jax.errors import UserError
from inception_jax.evaluation.predictions import Model
from inception_jax.models import describe
from inception_jax.models.network import Network


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network that has been loaded."""

    facts: Model
    network: Network
    variables: dict[str, Any]
    """NumPy arrays."""
    prepared: Preparation
    data: DataConfig | None
    """Of a run: the images that it was trained on."""

    @property
    def classes(self) -> int:
        """How many classes it tells apart, the background not counted."""
        return self.network.num_classes - self.prepared.label_offset


def load(path: str, protocol: Protocol, *, raw: bool, image_size: int | None) -> Trained:
    """A run (its newest checkpoint), RUN/checkpoints/STEP, or an imported or exported checkpoint.

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
    network, variables, prepared = inference.of_a_run(saved, raw=raw) if saved else inference.load_checkpoint(directory)
    if "classifier" not in variables["params"]:
        raise UserError(f"{path} has no classifier, so there are no classes to evaluate.")
    prepared = dataclasses.replace(prepared, image_size=image_size or prepared.image_size)
    facts = Model(
        path=path,
        network=describe(network),
        step=saved.step if saved else None,
        parameters=("raw" if raw else "averaged") if saved else None,
        checksum=hashlib.sha256((directory / SUMS).read_bytes()).hexdigest(),
        crops=protocol.crops,
        scales=protocol.scales,
        views=protocol.total,
        image_size=prepared.image_size,
        central_fraction=prepared.central_fraction,
        resize=prepared.resize,
    )
    return Trained(facts, network, variables, prepared, saved.experiment.data if saved else None)
