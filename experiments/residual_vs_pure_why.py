"""Cause of the slow pure networks in residual_vs_pure_fashion.py: size of the last grid, or depth without shortcuts.

    inception-jax compare residual_vs_pure_why --workdir runs/why --metrics gradient_norm/stem_conv_1

Inception-v4 and Inception-ResNet-v2 for two epochs, one seed, with gradient norms of every stage. The last grid is one
pixel at 75 pixels and 2x2 at 107: if its size were the cause, the gap would close there. With one block on each grid
Inception-v4 keeps its grids, widths and rate: if depth without shortcuts is the cause, it trains like the other.
"""

import dataclasses

from fashion_mnist import base

from inception_jax.config import Experiment

RATE = 0.015
SIZES = (75, 107)
SHALLOW = (1, 1, 1)


def run(name: str, size: int, depths: tuple[int, int, int] | None = None) -> Experiment:
    """One network at one image size."""
    e = base(epochs=2)
    return dataclasses.replace(
        e,
        model=dataclasses.replace(e.model, name=name, depths=depths),
        data=dataclasses.replace(e.data, image_size=size),
        optim=dataclasses.replace(e.optim, learning_rate=RATE),
        train=dataclasses.replace(e.train, log_every=5, stage_norms=True),
    )


def runs() -> dict[str, Experiment]:
    """Both networks at both image sizes, and Inception-v4 with one block on each grid."""
    found = {f"{name}_{size}": run(name, size) for size in SIZES for name in ("inception_v4", "inception_resnet_v2")}
    return {**found, "inception_v4_shallow_75": run("inception_v4", 75, SHALLOW)}
