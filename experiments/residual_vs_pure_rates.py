"""The sweep behind the rates of residual_vs_pure.py: five networks at three rates, ten epochs each, on ImageNet.

    inception-jax compare residual_vs_pure_rates --workdir runs/residual_vs_pure_rates

The schedule is that of the study compressed into ten epochs: the rate falls to 0.94 of itself fifty times. A network's
best rate is that of its least final error; where it is the highest or the lowest here, the sweep must go on beyond it.

Cost: 5.5e18 multiply-adds. Not run here: no ImageNet and no accelerator were at hand.
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
