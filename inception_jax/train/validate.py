"""Validation during training; each image counts exactly once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from inception_jax.errors import UserError


def validate(
    step: Callable[..., Any], params: Any, batch_stats: Any, batches: Iterable[Mapping[str, Any]]
) -> dict[str, float]:
    """Means over the images of `batches`: loss, `steps.error_metrics`, zero_share.

    Also the counts `images`, those evaluated, and `skipped_images`, the broken ones. `step` is
    `build.Setup.evaluate_step`, compiled or not.
    """
    # Sums are fetched one step late, so that the devices never wait for the host, and added in float64, because float32
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
        raise UserError(f"no image is left to evaluate: {skipped} were skipped as broken.")
    means = {name: value / images for name, value in total.items()}
    return {"images": images, "skipped_images": skipped, **means}


def _add(total: dict[str, float], sums: Mapping[str, jax.Array] | None) -> None:
    for name, value in (sums or {}).items():
        total[name] = total.get(name, 0.0) + float(np.asarray(value))
