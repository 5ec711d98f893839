"""Fine-tuning: trained weights, whatever their network, on a folder of one's own pictures.

    inception-jax train finetune --init-from v4 --data.source folder:photos --workdir runs/photos

`v4` is a run or an imported checkpoint (README, "Weights"). The network, its width and depths, and the preprocessing
are the checkpoint's, and so is the head as far as the classes have the same names. Every field can be set, e.g.

    --train.epochs 20                          a longer run; the schedule follows
    --train.freeze all                         only the head (a linear probe), in a third of the time
    --train.freeze all --train.unfreeze-epoch 2   the head first, then all
    --train.patience 3                         end after three evaluations without a lower error
    --data.image-size 149                      a quarter of the work per picture

Differs from the paper's recipe, which is for 1.3 million images and 200,000 steps: the length is 10 epochs of the
pictures at hand; the learning rate falls along a cosine after a warm-up of one epoch; the averages of BN statistics and
of parameters cover fifty steps; crops keep at least 35 % of the picture; colours are distorted half as much. The
rate was not tuned on ImageNet's weights, of which none were at hand; from garments to digits a higher one was better
(finetune_digits.py).

Cost: on two CPU cores a hundred pictures of each of three classes take Inception-v4 at 149 pixels six minutes,
compilation included, and two minutes with `--train.freeze all`.
How much it helps, measured: docs/finetuning.md.
"""

from inception_jax.config import (
    PRETRAINED,
    DataConfig,
    EvaluationConfig,
    Experiment,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)

RECIPE = Experiment(
    model=ModelConfig(name=PRETRAINED, bn_momentum=0.98),
    data=DataConfig(source="folder:photos", crop_area=(0.35, 1.0), colour_strength=0.5),
    optim=OptimConfig(
        learning_rate=0.03,
        reference_batch=32,  # The rate is for 32 images; it is in proportion to another batch size.
        schedule="cosine",
        warmup_epochs=1.0,
        ema_decay=0.98,
    ),
    train=TrainConfig(batch_size=32, epochs=10.0, log_every=10, checkpoint_every=100, keep=1),
    evaluation=EvaluationConfig(every_epochs=1.0, batch_size=32),
)


def runs() -> dict[str, Experiment]:
    """One run, of the network of `--init-from`."""
    return {"finetune": RECIPE}
