"""Inception-v4 (Figures 3-9): the paper's pure Inception network, without residual connections.

Widths, shapes and cost are the figures'. The order of 1x7 and 7x1 and of the concatenations is that of the released
code (TF-Slim, timm), so that the only published weights load unchanged; each block notes where it departs from its
figure.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax

from inception_jax.models import stems
from inception_jax.models.blocks import Layers, Reduction, Tower, concatenate, reduction_a
from inception_jax.models.network import Network, Stage, numbered


class InceptionA(nn.Module):
    """Figure 4: 35x35x384 -> 35x35x384."""

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, 384]."""
        tower = functools.partial(Tower, self.layers)
        return concatenate(
            [
                tower([(96, 1)], name="branch_1")(x),
                tower([(64, 1), (96, 3)], name="branch_2")(x),
                tower([(64, 1), (96, 3), (96, 3)], name="branch_3")(x),
                tower([(96, 1)], name="branch_pool")(self.layers.average_pool(x)),
            ]
        )


class InceptionB(nn.Module):
    """Figure 5: 17x17x1024 -> 17x17x1024.

    Differs from Figure 5: the third branch is 1x7, 7x1 (the figure prints 1x7 twice) and the long one 7x1, 1x7, 7x1,
    1x7, as released.
    """

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, 1024]."""
        tower = functools.partial(Tower, self.layers)
        long = [(192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))]
        return concatenate(
            [
                tower([(384, 1)], name="branch_1")(x),
                tower([(192, 1), (224, (1, 7)), (256, (7, 1))], name="branch_2")(x),
                tower(long, name="branch_3")(x),
                tower([(128, 1)], name="branch_pool")(self.layers.average_pool(x)),
            ]
        )


class InceptionC(nn.Module):
    """Figure 6: 8x8x1536 -> 8x8x1536.

    Differs from Figure 6: the long branch is 3x1, 1x3 before it splits, as released.
    """

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, 1536]."""
        tower = functools.partial(Tower, self.layers)
        short = tower([(384, 1)], name="branch_2")(x)
        long = tower([(384, 1), (448, (3, 1)), (512, (1, 3))], name="branch_3")(x)
        return concatenate(
            [
                tower([(256, 1)], name="branch_1")(x),
                tower([(256, (1, 3))], name="branch_2_wide")(short),
                tower([(256, (3, 1))], name="branch_2_high")(short),
                tower([(256, (1, 3))], name="branch_3_wide")(long),
                tower([(256, (3, 1))], name="branch_3_high")(long),
                tower([(256, 1)], name="branch_pool")(self.layers.average_pool(x)),
            ]
        )


# Figure 8: 17x17x1024 -> 8x8x1536.
REDUCTION_B = (
    [(192, 1), (192, 3, 2, "VALID")],
    [(256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, 2, "VALID")],
)


class InceptionV4(Network):
    """Inception-v4 (Figure 9): stem, 4 x A, Reduction-A, 7 x B, Reduction-B, 3 x C."""

    def stages(self) -> Sequence[Stage]:
        """Stages of Figure 9."""
        a, b, c = self.depths or (4, 7, 3)
        return [
            *stems.BRANCHED,
            *numbered("inception_a", a, InceptionA),
            ("reduction_a", functools.partial(Reduction, towers=reduction_a(192, 224, 256, 384))),
            *numbered("inception_b", b, InceptionB),
            ("reduction_b", functools.partial(Reduction, towers=REDUCTION_B)),
            *numbered("inception_c", c, InceptionC),
        ]
