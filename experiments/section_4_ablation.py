"""Ablation of section 4 on Fashion-MNIST: the effect of each setting of optimiser and BN in a short run.

Covers: section 4 of arXiv 1602.07261, its optimiser and averaging, and common mistakes in reimplementations.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 \\
        inception-jax compare section_4_ablation --workdir runs/section_4_ablation

Four devices with 8 images each, so that BN per replica differs from BN over all. Training without EMA is shown by the
raw parameters of the same run (`final raw top-1`). One seed: differences of a point or two are noise. About 10 minutes
on two cores; the results are in docs/residual_scaling.md.
"""

import dataclasses
from typing import Any

from fashion_mnist import base

from inception_jax.config import Experiment

SEEDS = (1,)

RATE = 0.015  # Inception-ResNet-v2's best rate in residual_vs_pure_fashion_rates.py.

# Name -> fields of OptimConfig and of ModelConfig. An epsilon near 0 normalises each gradient by its magnitude, which
# calls for a lower learning rate; both rates are run.
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "paper": ({}, {}),
    "epsilon_outside": ({"epsilon_in_sqrt": False}, {}),
    "epsilon_1e-8": ({"rms_epsilon": 1e-8}, {}),
    "epsilon_1e-8_low": ({"rms_epsilon": 1e-8, "learning_rate": 0.0005}, {}),
    "smooth": ({"staircase": False}, {}),
    "bn_global": ({}, {"bn_statistics": "global"}),
}


def runs() -> dict[str, Experiment]:
    """Inception-ResNet-v2 with each change, seed by seed."""
    found = {}
    for seed in SEEDS:
        for name, (optim, model) in CHANGES.items():
            e = base(epochs=2)
            found[f"{name}_seed{seed}"] = dataclasses.replace(
                e,
                seed=seed,
                model=dataclasses.replace(e.model, name="inception_resnet_v2", **model),
                optim=dataclasses.replace(e.optim, **{"learning_rate": RATE, **optim}),
            )
    return found
