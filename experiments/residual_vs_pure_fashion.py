"""Residual against pure networks on Fashion-MNIST: the study of residual_vs_pure.py in small, for two CPU cores.

Repeats: Figures 21-26 of arXiv 1602.07261 with networks of a quarter of the width, 4,000 training and 2,000 validation
images of 28x28 pixels resized to 75, four epochs of 32 images a step, and the paper's schedule compressed into them.

    apt-get install dataset-fashion-mnist
    inception-jax compare residual_vs_pure_fashion --workdir runs/fashion

Cost: 36 runs of two to four minutes on one core, and a minute to compile each network. `train --run NAME` in another
process trains one of them; `compare` then draws what is there and trains the rest.

Each network runs at the paper's rate and at its own best of residual_vs_pure_fashion_rates.py. Expected: what
docs/residual_vs_pure.md says was seen, and why.

Differs from the paper besides: no clipping (why: digits.py), BN decay 0.9 and EMA decay 0.95, since 500 steps are too
few for 0.9997 and 0.9999; crops of at least 60 % of the area and no colours.
"""

from residual_vs_pure import study

from inception_jax.config import DataConfig, EvaluationConfig, Experiment, ModelConfig, OptimConfig, TrainConfig

SEEDS = (1, 2, 3)
BEST: dict[str, tuple[float, ...]] = {
    "inception_v3": (0.015,),
    "inception_v4": (0.015, 0.0045, 0.0015),  # Its seeds differ by more than the sweep's rates.
    "inception_resnet_v1": (0.0045,),
    "inception_resnet_v2": (0.015,),
    "inception_resnet_v2_deep": (0.0045,),
}


def base(epochs: float) -> Experiment:
    """Common settings: 4,000 images, a quarter of the width, and the paper's schedule compressed into `epochs`."""
    return Experiment(
        model=ModelConfig(width=0.25, bn_momentum=0.9),
        data=DataConfig(
            source="idx:/usr/share/datasets/fashion-mnist",
            training_images=4000,
            validation_images=2000,
            image_size=75,
            crop_area=(0.6, 1.0),
            colour=False,
            central_fraction=1.0,
        ),
        # The paper's 100 epochs have 50 decays, and so have these.
        optim=OptimConfig(decay_epochs=epochs / 50, clip_norm=None, ema_decay=0.95),
        train=TrainConfig(batch_size=32, epochs=epochs, log_every=25, checkpoint_every=250, keep=1),
        evaluation=EvaluationConfig(every_epochs=0.5, batch_size=500),
    )


def runs() -> dict[str, Experiment]:
    """Each network at the paper's rate and at its own best, seed by seed."""
    return study(base(epochs=4), BEST, SEEDS)
