"""The paper's recipe on a small scale, on Fashion-MNIST: common settings of the studies, and a run at the paper's rate.

    apt-get install dataset-fashion-mnist
    inception-jax train fashion_mnist --workdir runs/fashion_mnist

Networks of a quarter of the width, 4,000 training and 2,000 validation images of 28x28 pixels resized to 75, a batch
size of 32, and the paper's schedule compressed into a few epochs.

Cost: two to four minutes on one core, and a minute of compilation.

Differs from the paper also in: no clipping (digits.py explains why); BN decay 0.9 and EMA decay 0.95, since 500 steps
are too few for 0.9997 and 0.9999; crops of at least 60 % of the area and no colour distortion.
"""

from inception_jax.config import DataConfig, EvaluationConfig, Experiment, ModelConfig, OptimConfig, TrainConfig


def base(epochs: float) -> Experiment:
    """Settings of the studies, with the paper's schedule compressed into `epochs`."""
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
        # 50 decays, as in the paper's 100 epochs.
        optim=OptimConfig(decay_epochs=epochs / 50, clip_norm=None, ema_decay=0.95),
        train=TrainConfig(batch_size=32, epochs=epochs, log_every=25, checkpoint_every=250, keep=1),
        evaluation=EvaluationConfig(every_epochs=0.5, batch_size=500),
    )


def runs() -> dict[str, Experiment]:
    """Inception-ResNet-v2 for four epochs."""
    return {"inception_resnet_v2": base(epochs=4)}
