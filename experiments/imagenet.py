"""The paper's recipe on ImageNet, for its four networks.

Reproduces: section 4, Figures 21-26 and Table 2 of arXiv 1602.07261.

    inception-jax train imagenet --run inception_v4 --workdir runs/inception_v4 [--data.data-dir DIR]
    inception-jax compare imagenet --workdir runs/imagenet [--data.data-dir DIR]

The second command trains all four, one after another, and draws the figures. Both need `imagenet2012` prepared as
array_record by tensorflow-datasets (README, "ImageNet").

Expected, from the paper (Table 2): single-crop error in % on 48,238 validation images. Cost: multiply-adds of a forward
pass per image, and of training for 100 epochs of 1,281,167 images, where a step costs about three forward passes. Not
run here for lack of ImageNet and an accelerator.

    network               top-1   top-5   image     training
    Inception-v3           21.2     5.6    5.71 G    2.2e18
    Inception-ResNet-v1    21.3     5.5    6.21 G    2.4e18
    Inception-v4           20.0     5.0   12.25 G    4.7e18
    Inception-ResNet-v2    19.9     4.9    9.26 G    3.6e18

Inception-ResNet-v2 has the 5/10/5 blocks of Figure 15; `--model.depths 10 20 10` gives the released depth, whose cost
is closer to that of Inception-v4, as the text states.

Values that the paper does not state follow the source named beside them: the Inception-v3 paper (arXiv 1512.00567),
Google's released code (TF-Slim), or TensorFlow's distributed trainer of Inception-v3. BN's epsilon is TF-Slim's 1e-3.

As measured in digits.py, the gradient of a pure network grows towards the image, so that clipping holds back all but
the first layers. If the loss of Inception-v3 or Inception-v4 does not fall in the first epochs, try
`--optim.clip-norm None`.
"""

import dataclasses

from inception_jax.config import DataConfig, EvaluationConfig, Experiment, ModelConfig, OptimConfig, TrainConfig

REPLICAS = 20  # "20 replicas running each on a NVidia Kepler GPU"
IMAGES_PER_REPLICA = 32  # Inception-v3 paper

RECIPE = Experiment(
    model=ModelConfig(
        dropout_rate=0.2,  # Figures 9 and 15: keep 0.8
        residual_scales=(0.17, 0.10, 0.20),  # TF-Slim; section 3.3: 0.1 to 0.3
        bn_momentum=0.9997,  # TF-Slim
        bn_statistics="replica",  # Each replica normalises over its own images.
    ),
    data=DataConfig(
        source="tfds:imagenet2012",
        image_size=299,
        crop_area=(0.05, 1.0),  # TF-Slim, as are flips, colours and the central crop for evaluation
        crop_aspect=(3 / 4, 4 / 3),
        flip=True,
        colour=True,
        central_fraction=0.875,
        resize="bilinear",
    ),
    optim=OptimConfig(
        name="rmsprop",
        learning_rate=0.045,
        reference_batch=None,  # As it is: the rate of the batch below.
        head_rate=1.0,
        schedule="exponential",
        decay_rate=0.94,  # "decayed every two epochs using an exponential rate of 0.94"
        decay_epochs=2.0,
        staircase=True,  # TF-Slim
        warmup_epochs=0.0,
        rms_decay=0.9,  # RMSProp "with decay of 0.9" and epsilon 1.0
        rms_epsilon=1.0,
        rms_initial=1.0,  # TensorFlow's RMSProp: initial mean square of 1, epsilon inside the root
        epsilon_in_sqrt=True,
        momentum=0.9,  # TF-Slim; the paper states 0.9 for earlier experiments.
        weight_decay=4e-5,  # TF-Slim, on the kernels of convolutions and dense layers
        clip_norm=2.0,  # Inception-v3 paper; the AAAI version states that clipping helped.
        ema_decay=0.9999,  # "a running average of the parameters"; decay of TensorFlow's trainer
    ),
    train=TrainConfig(
        batch_size=REPLICAS * IMAGES_PER_REPLICA,  # 640, for which the learning rate is 0.045
        epochs=100.0,  # Inception-v3 paper
        label_smoothing=0.1,  # Inception-v3 paper
        aux_weight=0.4,  # TF-Slim
    ),
    evaluation=EvaluationConfig(every_epochs=1.0),
)

# As in TF-Slim, which has no Inception-ResNet-v1.
AUX_HEADS = {
    "inception_v3": True,
    "inception_resnet_v1": False,
    "inception_v4": True,
    "inception_resnet_v2": True,
}


def runs() -> dict[str, Experiment]:
    """The four networks, all trained with the same recipe."""
    return {
        name: dataclasses.replace(RECIPE, model=dataclasses.replace(RECIPE.model, name=name, aux_head=aux_head))
        for name, aux_head in AUX_HEADS.items()
    }
