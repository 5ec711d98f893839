"""Learning rates of finetune_digits.py: each method at four rates, with 30 images a class and seed 0.

    inception-jax train fashion_mnist --workdir runs/fashion_mnist
    inception-jax compare finetune_digits_rates --workdir runs/finetune_digits_rates

Cost: 12 runs of a quarter of a minute on two cores.
"""

from finetune_digits import METHODS, run

from inception_jax.config import Experiment

RATES = (0.015, 0.05, 0.15, 0.45)


def runs() -> dict[str, Experiment]:
    """Every method at every rate."""
    return {f"{method}_{rate:g}": run(method, 30, 0, rate) for method in METHODS for rate in RATES}
