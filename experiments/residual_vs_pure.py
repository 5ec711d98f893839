"""Residual against pure networks: the paper's comparison on ImageNet, with several seeds.

Reproduces: section 4 and Figures 21-26 of arXiv 1602.07261. The two pairs are Inception-v3 and Inception-ResNet-v1,
Inception-v4 and Inception-ResNet-v2. A third residual network is Inception-ResNet-v2 at the released depth, which is
closer to Inception-v4 in cost (10/20/10: 14.1 G multiply-adds against 12.3 G; Figure 15's 5/10/5 has 9.3 G). Runs with
the same seed see the same images in the same order, for the same number of epochs.

    inception-jax compare residual_vs_pure --workdir runs/residual_vs_pure [--data.source tfds:DIR]

Learning rates: the paper uses 0.045 for all networks. A rate that suits one network may not suit another, so each
network also runs at its own best rate, or at several if a sweep does not separate them: run residual_vs_pure_rates.py
and enter the result in `BEST`. On ImageNet that has not been done, so `BEST` is empty and only the paper's rate is run.

Cost: 100 epochs of 1,281,167 images, about 3 x (5.7 + 6.2 + 12.3 + 9.3 + 14.1) G multiply-adds per image: 1.8e19
multiply-adds for each seed. Not run here for lack of ImageNet and an accelerator; residual_vs_pure_fashion.py, the same
study on a small scale, was run.

Expected, from the paper (Table 2, single crop, top-1 / top-5 error in %): Inception-v3 21.2 / 5.6, Inception-ResNet-v1
21.3 / 5.5, Inception-v4 20.0 / 5.0, Inception-ResNet-v2 19.9 / 4.9; the residual networks train faster.

The recipe is that of imagenet.py without auxiliary heads, which no Inception-ResNet-v1 has, so that the networks of a
pair differ in nothing else.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from imagenet import RECIPE

from inception_jax.config import Experiment, ModelConfig

PAPERS_RATE = RECIPE.optim.learning_rate
SEEDS = (1, 2, 3)
BEST: dict[str, tuple[float, ...]] = {}

NETWORKS = {
    "inception_v3": ModelConfig(name="inception_v3"),
    "inception_resnet_v1": ModelConfig(name="inception_resnet_v1"),
    "inception_v4": ModelConfig(name="inception_v4"),
    "inception_resnet_v2": ModelConfig(name="inception_resnet_v2"),
    "inception_resnet_v2_deep": ModelConfig(name="inception_resnet_v2", depths=(10, 20, 10)),
}


def at(base: Experiment, network: ModelConfig, rate: float, seed: int) -> Experiment:
    """`base` with the name and depths of `network`, and this rate and seed."""
    model = dataclasses.replace(base.model, name=network.name, depths=network.depths)
    return dataclasses.replace(base, seed=seed, model=model, optim=dataclasses.replace(base.optim, learning_rate=rate))


def study(base: Experiment, best: Mapping[str, tuple[float, ...]], seeds: Iterable[int]) -> dict[str, Experiment]:
    """Each network at the paper's rate and its best ones; seed by seed, so that finished seeds form a study."""
    return {
        f"{name}_{rate:g}_seed{seed}": at(base, network, rate, seed)
        for seed in seeds
        for name, network in NETWORKS.items()
        for rate in dict.fromkeys((PAPERS_RATE, *best.get(name, ())))
    }


def sweep(base: Experiment, rates: Iterable[float]) -> dict[str, Experiment]:
    """Each network at each rate, with a seed that the study does not use."""
    return {f"{name}_{rate:g}": at(base, network, rate, seed=0) for name, network in NETWORKS.items() for rate in rates}


def runs() -> dict[str, Experiment]:
    """The study with the paper's recipe."""
    return study(RECIPE, BEST, SEEDS)
