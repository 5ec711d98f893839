"""Learning rate sweep for residual_vs_pure_fashion.py: five networks at four rates, three epochs.

    inception-jax compare residual_vs_pure_fashion_rates --workdir runs/fashion_rates \\
        --evaluation.every-epochs 1

About 30 minutes on two cores; the errors are in docs/residual_vs_pure.md.
"""

from fashion_mnist import base
from residual_vs_pure import PAPERS_RATE, sweep

from inception_jax.config import Experiment


def runs() -> dict[str, Experiment]:
    """Each network at the paper's rate and three lower ones."""
    return sweep(base(epochs=3), (0.0015, 0.0045, 0.015, PAPERS_RATE))
