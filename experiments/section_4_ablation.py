"""The other knobs of section 4, one at a time, on Fashion-MNIST: what each of them is worth in a short run.

Repeats: section 4 of arXiv 1602.07261, its optimiser and its averaging, and what people who rebuild it get wrong.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 \\
        inception-jax compare section_4_ablation --workdir runs/section_4_ablation

Four devices, so that BN has something to be per replica or over all of: 8 images each. EMA off is the raw parameters of
the same run (`final raw top-1`). One seed: a difference of a point or two means nothing. About 10 minutes on two cores;
what came out is in docs/residual_scaling.md.
"""

import dataclasses
from typing import Any

from fashion_mnist import base

from inception_jax.config import Experiment

SEEDS = (1,)

RATE = 0.015  # Inception-ResNet-v2's best of the sweep of residual_vs_pure_fashion_rates.py.

# Name -> fields of OptimConfig and of ModelConfig. An epsilon near 0 divides each gradient by its own size, so that
# another rate is the right one; it has a lower one as well.
KNOBS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "paper": ({}, {}),
    "epsilon_outside": ({"epsilon_in_sqrt": False}, {}),
    "epsilon_1e-8": ({"rms_epsilon": 1e-8}, {}),
    "epsilon_1e-8_low": ({"rms_epsilon": 1e-8, "learning_rate": 0.0005}, {}),
    "smooth": ({"staircase": False}, {}),
    "bn_global": ({}, {"bn_statistics": "global"}),
}


def runs() -> dict[str, Experiment]:
    """Inception-ResNet-v2 with each knob, seed by seed."""
    found = {}
    for seed in SEEDS:
        for name, (optim, model) in KNOBS.items():
            e = base(epochs=2)
            found[f"{name}_seed{seed}"] = dataclasses.replace(
                e,
                seed=seed,
                model=dataclasses.replace(e.model, name="inception_resnet_v2", **model),
                optim=dataclasses.replace(e.optim, **{"learning_rate": RATE, **optim}),
            )
    return found
