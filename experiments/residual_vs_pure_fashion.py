"""Residual against pure networks on Fashion-MNIST: the study of residual_vs_pure.py for two CPU cores.

Reproduces: Figures 21-26 of arXiv 1602.07261 with the small networks and images of fashion_mnist.py, whose departures
from the paper apply, for four epochs.

    apt-get install dataset-fashion-mnist
    inception-jax compare residual_vs_pure_fashion --workdir runs/fashion

Cost: 36 runs of two to four minutes on one core, and a minute of compilation per network. `train --run NAME` in another
process trains one of them; `compare` then uses it and trains the rest.

Each network runs at the paper's rate and at its best ones from residual_vs_pure_fashion_rates.py. The results are in
docs/residual_vs_pure.md.
"""

from fashion_mnist import base
from residual_vs_pure import study

from inception_jax.config import Experiment

SEEDS = (1, 2, 3)
BEST: dict[str, tuple[float, ...]] = {
    "inception_v3": (0.015,),
    "inception_v4": (0.015, 0.0045, 0.0015),  # Seeds differ more than the rates of the sweep.
    "inception_resnet_v1": (0.0045,),
    "inception_resnet_v2": (0.015,),
    "inception_resnet_v2_deep": (0.0045,),
}


def runs() -> dict[str, Experiment]:
    """Each network at the paper's rate and at its best ones, seed by seed."""
    return study(base(epochs=4), BEST, SEEDS)
