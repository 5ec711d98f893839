"""Validation during training: the error of the network, each image counted exactly once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from inception_jax.errors import UserError


def validate(
    step: Callable[..., Any], params: Any, batch_stats: Any, batches: Iterable[Mapping[str, Any]]
) -> dict[str, float]:
    """Means over the images of `batches`: loss, top1_error, top5_error, zero_share.

    And two numbers: `images`, those that were counted, and `skipped_images`, the broken ones that were left out.
    `step` is `build.Setup.evaluate_step`, compiled or not.
    """
    # Sums are fetched one step late, so that the device always has the next batch. They are added in float64: float32
    # stops counting at 2 ** 24.
    total: dict[str, float] = {}
    pending = None
    for batch in batches:
        sums = step(params, batch_stats, batch)
        _add(total, pending)
        pending = sums
    _add(total, pending)
    images, skipped = int(total.pop("images")), int(total.pop("skipped_images"))
    if not images:
        raise UserError(f"there is no image to evaluate: {skipped} were skipped as broken.")
    means = {name: value / images for name, value in total.items()}
    return {"images": images, "skipped_images": skipped, **means}


def _add(total: dict[str, float], sums: Mapping[str, jax.Array] | None) -> None:
    for name, value in (sums or {}).items():
        total[name] = total.get(name, 0.0) + float(np.asarray(value))
