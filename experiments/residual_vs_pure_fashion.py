"""Residual against pure networks on Fashion-MNIST: the study of residual_vs_pure.py in small, for two CPU cores.

Repeats: Figures 21-26 of arXiv 1602.07261 with networks of a quarter of the width, 4,000 training and 2,000 validation
images of 28x28 pixels resized to 75, four epochs of 32 images a step, and the paper's schedule compressed into them.

    apt-get install dataset-fashion-mnist
    inception-jax compare residual_vs_pure_fashion --workdir runs/fashion

Cost: 36 runs of two to four minutes on one core, and a minute to compile each network. `train --run NAME` in another
process trains one of them; `compare` then draws what is there and trains the rest.

Each network runs at the paper's rate and at its own best of residual_vs_pure_fashion_rates.py. Expected: what
docs/residual_vs_pure.md says was seen, and why.

Differs from the paper besides: as fashion_mnist.py says.
"""

from fashion_mnist import base
from residual_vs_pure import study

from inception_jax.config import Experiment

SEEDS = (1, 2, 3)
BEST: dict[str, tuple[float, ...]] = {
    "inception_v3": (0.015,),
    "inception_v4": (0.015, 0.0045, 0.0015),  # Its seeds differ by more than the sweep's rates.
    "inception_resnet_v1": (0.0045,),
    "inception_resnet_v2": (0.015,),
    "inception_resnet_v2_deep": (0.0045,),
}


def runs() -> dict[str, Experiment]:
    """Each network at the paper's rate and at its own best, seed by seed."""
    return study(base(epochs=4), BEST, SEEDS)
