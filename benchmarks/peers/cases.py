"""Cases to measure, the contestants of each, and their common recipe."""

import dataclasses
import itertools
from collections.abc import Sequence

from inception_jax.config import SMALLEST_SIDE
from inception_jax.errors import UserError

MODES = ("infer", "train")
PEERS = ("timm", "timm-compiled", "keras")

PYTORCH = {
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "inception_resnet_v2_slim": "inception_resnet_v2",
    "inception_resnet_v1_facenet": None,
}
"""timm's names of our networks; None stands for facenet-pytorch's only network."""
KERAS = {"inception_v3": "InceptionV3", "inception_resnet_v2_slim": "InceptionResNetV2"}
"""Names in keras.applications."""

OURS = "ours"
LAYOUTS = ("timm", "timm-channels-last")
"""Eager PyTorch, NCHW and NHWC in memory; ours is compared with the faster of the two."""
COMPILED = "timm-compiled"
PRODUCTS = ("product-jax", "product-torch")
"""Matrix products, which give the limit; their unit is an operation, not an image."""

# The paper's recipe, for all contestants.
LABEL_SMOOTHING, CLIP_NORM, WEIGHT_DECAY = 0.1, 2.0, 4e-5
RMS_DECAY, RMS_EPSILON, MOMENTUM, EMA_DECAY, DROPOUT = 0.9, 1.0, 0.9, 0.9999, 0.2


@dataclasses.dataclass(frozen=True)
class Case:
    """Case to measure."""

    mode: str
    """infer or train."""
    model: str
    """Our name of the network."""
    batch_size: int
    image_size: int
    device: str
    """cpu or cuda."""
    dtype: str
    """Type in which convolutions compute, float32 or bfloat16; parameters are float32."""

    def __str__(self) -> str:
        """For example, 'train inception_v4, batch 4 at 149, float32 on cpu'."""
        return f"{self.mode} {self.model}, batch {self.batch_size} at {self.image_size}, {self.dtype} on {self.device}"

    @property
    def classes(self) -> int:
        """Number of outputs: ImageNet's classes, or the size of facenet's embedding."""
        return 512 if self.model == "inception_resnet_v1_facenet" else 1000

    @property
    def learning_rate(self) -> float:
        """The paper's 0.045, scaled from its batch size of 640; unscaled, training on one small batch gives NaN."""
        return 0.045 * self.batch_size / 640


def grid(
    modes: Sequence[str], models: Sequence[str], batch_sizes: Sequence[int], image_sizes: Sequence[int], **where: str
) -> list[Case]:
    """All combinations of modes, networks, batch sizes and image sizes; `where` is device and dtype.

    Raises UserError for a network that no peer has, an empty batch, and an image too small for the networks.
    """
    for model in models:
        if model not in PYTORCH:
            raise UserError(f"no peer has {model}; --models takes {', '.join(PYTORCH)}.")
    if min(batch_sizes) < 1:
        raise UserError(f"--batch-sizes has {min(batch_sizes)}; it must be 1 or more.")
    if min(image_sizes) < SMALLEST_SIDE:
        raise UserError(f"--image-sizes has {min(image_sizes)}; it must be {SMALLEST_SIDE} or more.")
    return [Case(*values, **where) for values in itertools.product(modes, models, batch_sizes, image_sizes)]


def contestants(case: Case, peers: Sequence[str]) -> list[str]:
    """Names of the contestants of a case, with these peers."""
    pytorch = [*(LAYOUTS if "timm" in peers else ()), *([COMPILED] if COMPILED in peers else ())]
    keras = ["keras"] if "keras" in peers and case.model in KERAS else []
    return [OURS, *pytorch, *keras, *(PRODUCTS if pytorch else PRODUCTS[:1])]
