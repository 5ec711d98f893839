"""Inception-ResNet-v2: the paper's recipe on ImageNet.

Repeats: section 4 and Figures 23-26 of arXiv 1602.07261.

    inception-jax train inception_resnet_v2 --workdir runs/inception_resnet_v2 [--data.data-dir DIR]

Needs `imagenet2012` prepared as array_record by tensorflow-datasets (README, "ImageNet").

Cost: 9.26 G multiply-adds an image forward and about three times that to train: 3.6e18 multiply-adds for 100 epochs
of 1,281,167 images. Not run here: no ImageNet and no accelerator were at hand.

Expected (the paper's own numbers, single crop): 19.9 % top-1 and 4.9 % top-5 error (Table 2, on 48,238 images).

Assumed where the paper is silent: 32 images per replica (so a global batch of 20 x 32 = 640 at the rate 0.045), 100
epochs, clipping by global norm at 2.0, label smoothing 0.1 (Inception-v3 paper); weight decay 4e-5 on kernels, RMSProp
momentum 0.9, BN decay 0.9997, auxiliary head of weight 0.4, a staircase (TF-Slim); EMA decay 0.9999.
Residual scales 0.17, 0.10, 0.20 (released code; section 3.3 says 0.1 to 0.3). Blocks 5/10/5 as drawn in Figure 15;
`--model.depths 10 20 10` has the depth, and nearly the cost, that the text names.
"""

from inception_jax.config import DataConfig, Experiment, ModelConfig


def runs() -> dict[str, Experiment]:
    """One run; every value that is not named here is the paper's by default (config.py)."""
    return {
        "inception_resnet_v2": Experiment(
            model=ModelConfig(name="inception_resnet_v2", aux_head=True),
            data=DataConfig(source="tfds:imagenet2012", image_size=299),
        )
    }
