"""Learning rate sweep for digits.py: four networks at four rates, about 20 minutes on two CPU cores.

inception-jax compare digits_rates --workdir runs/digits_rates --evaluation.every-epochs 1
"""

from digits import RATES, run

from inception_jax.config import Experiment


def runs() -> dict[str, Experiment]:
    """Each network at the paper's rate and three lower ones."""
    return {f"{name}_{rate:g}": run(name, rate) for name in RATES for rate in (0.0015, 0.0045, 0.015, 0.045)}
