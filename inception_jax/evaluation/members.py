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
from inception_jax.evaluation.classes import Outputs
from inception_jax.evaluation.predictions import Model
from inception_jax.models import describe
from inception_jax.models.network import Network, check_images
from inception_jax.weights import weight_files
from inception_jax.weights.checkpoint import from_run, load_checkpoint


@dataclasses.dataclass(frozen=True)
class Member:
    """Trained network to evaluate."""

    description: Model
    model: Network
    variables: dict[str, Any]
    """`{"params": ..., "batch_stats": ...}` of NumPy arrays."""
    preprocessing: Preprocessing
    data: DataConfig | None
    """The data that a run was trained on; None for other checkpoints."""
    training_images: int | None = None
    """Number of images that a run was trained on, where it is known."""
    held_out: frozenset[int] = frozenset()
    """Images that a run held out for validation, as `Source.held_out`."""

    @property
    def outputs(self) -> Outputs:
        """Its classes without the background."""
        count = self.model.num_classes - self.preprocessing.label_offset
        return Outputs(self.description.path, count, self.preprocessing.class_names)


def load_member(path: str, protocol: Protocol, *, raw: bool, best: bool, image_size: int | None) -> Member:
    """Loads a run (its newest checkpoint), RUN/checkpoints/STEP, or an imported or exported checkpoint.

    Args:
      path: path of the run or checkpoint.
      protocol: crops to evaluate it on.
      raw: use a run's raw parameters rather than the averaged ones.
      best: take a run's checkpoint with the lowest validation error rather than its newest.
      image_size: side of the input in pixels; None is the network's own.

    Raises:
      UserError: there is no intact checkpoint, or it has no classifier.
    """
    weight_files.refuse(path)
    saved = None if checkpoint.is_exported(path) else checkpoint.read(path, best=best)
    # The checkpoint's own path, because a run in training may write a newer one at any moment.
    directory = saved.path if saved else Path(path)
    model, variables, preprocessing = from_run(saved, raw=raw) if saved else load_checkpoint(directory, best=best)
    if "classifier" not in variables["params"] or model.num_classes <= preprocessing.label_offset:
        raise UserError(f"{path} has no classifier, so there are no classes to evaluate.")
    preprocessing = dataclasses.replace(preprocessing, image_size=image_size or preprocessing.image_size)
    check_images((1, preprocessing.image_size, preprocessing.image_size, 3))
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
    if saved is None:
        return Member(description, model, variables, preprocessing, None)
    data, images, held_out = saved.experiment.data, saved.training_images, saved.held_out
    return Member(description, model, variables, preprocessing, data, images, held_out)
