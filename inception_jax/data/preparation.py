"""How a network's images must be prepared and its classes are called: what travels with trained weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from inception_jax.data.preprocess import Resize
from inception_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The input that weights were trained for, and the meaning of their classes."""

    image_size: int = 299
    """Side of the square input, in pixels."""
    central_fraction: float = 0.875
    """Share of each side of a picture that is looked at."""
    resize: Resize = "bilinear"
    """How that becomes `image_size` pixels."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Taken from each channel in [0, 1]; with the `std` of 0.5 the network's own [-1, 1]."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """By which each channel is then divided."""
    label_offset: int = 0
    """Outputs before that of the first class: 1 for TensorFlow's 1001 labels, whose first is the background."""
    class_names: tuple[str, ...] = ()
    """Of the classes after the offset, where they are known."""


def to_dict(preparation: Preparation) -> dict[str, Any]:
    """As JSON values."""
    return dataclasses.asdict(preparation)


def from_dict(values: Mapping[str, Any]) -> Preparation:
    """The inverse of `to_dict`; UserError names fields that there are not."""
    known = [field.name for field in dataclasses.fields(Preparation)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UserError(f"unknown field {unknown[0]} of the preprocessing; there are {', '.join(known)}.")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Preparation(**fields)
