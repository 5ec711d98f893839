"""Learning rate sweep for residual_vs_pure.py: five networks at three rates, ten epochs each, on ImageNet.

    inception-jax compare residual_vs_pure_rates --workdir runs/residual_vs_pure_rates

The schedule is that of the study compressed into ten epochs, with the same fifty decays. A network's best rate is the
one with the lowest final error; if that is the highest or the lowest of the sweep, extend the sweep beyond it.

Cost: 5.5e18 multiply-adds. Not run here for lack of ImageNet and an accelerator.
"""

import dataclasses

from imagenet import RECIPE
from residual_vs_pure import PAPERS_RATE, sweep

from inception_jax.config import Experiment

EPOCHS = 10


def runs() -> dict[str, Experiment]:
    """Each network at the paper's rate, and at half and twice that."""
    base = dataclasses.replace(
        RECIPE,
        optim=dataclasses.replace(RECIPE.optim, decay_epochs=EPOCHS / 50),
        train=dataclasses.replace(RECIPE.train, epochs=EPOCHS),
    )
    return sweep(base, (PAPERS_RATE / 2, PAPERS_RATE, 2 * PAPERS_RATE))
