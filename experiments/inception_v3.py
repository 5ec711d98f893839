"""Inception-v3: the paper's recipe on ImageNet.

Repeats: section 4 and the baseline of Figures 21 and 22 of arXiv 1602.07261.

    inception-jax train inception_v3 --workdir runs/inception_v3 [--data.data-dir DIR]

Needs `imagenet2012` prepared as array_record by tensorflow-datasets (README, "ImageNet").

Cost: 5.71 G multiply-adds an image forward and about three times that to train: 2.2e18 multiply-adds for 100 epochs
of 1,281,167 images. Not run here: no ImageNet and no accelerator were at hand.

Expected (the paper's own numbers, single crop): 21.2 % top-1 and 5.6 % top-5 error (Table 2, on 48,238 images).

Assumed where the paper is silent: 32 images per replica (so a global batch of 20 x 32 = 640 at the rate 0.045), 100
epochs, clipping by global norm at 2.0, label smoothing 0.1 (Inception-v3 paper); weight decay 4e-5 on kernels, RMSProp
momentum 0.9, BN decay 0.9997, auxiliary head of weight 0.4, a staircase (TF-Slim); EMA decay 0.9999.
A caution from digits.py, where it was measured: a pure network's gradient grows towards the image, and the clip then
holds back all but the first layers. If the loss does not fall in the first epochs, try `--optim.clip-norm None`.
"""

from inception_jax.config import DataConfig, Experiment, ModelConfig


def runs() -> dict[str, Experiment]:
    """One run; every value that is not named here is the paper's by default (config.py)."""
    return {
        "inception_v3": Experiment(
            model=ModelConfig(name="inception_v3", aux_head=True),
            data=DataConfig(source="tfds:imagenet2012", image_size=299),
        )
    }
