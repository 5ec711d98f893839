"""Inception-ResNets: v1 and v2 as in the paper's figures (7, 10-19), v2 as released, and facenet's v1.

They differ only in stem and widths: one class, and a table of widths for each.
"""

import dataclasses
import functools
from collections.abc import Sequence

import flax.linen as nn
import jax

from inception_jax.models import stems
from inception_jax.models.blocks import ConvNorm, Layers, Reduction, Row, Tower, concatenate, reduction_a
from inception_jax.models.network import Network, Stage, numbered

Towers = tuple[Sequence[Row], ...]


# Compared and hashed by identity, so that networks can be static arguments of jit.
@dataclasses.dataclass(frozen=True, eq=False)
class Widths:
    """Stem, towers and number of blocks of an Inception-ResNet."""

    stem: Sequence[Stage]
    block_a: Towers
    reduction_a: Towers
    block_b: Towers
    reduction_b: Towers
    block_c: Towers
    depths: tuple[int, int, int]
    final_block: bool = False
    """Whether there is one more C block, of scale 1 and without ReLU (released code only)."""
    final_conv: int | None = None
    """Features of a 1x1 convolution before the pool (released code only)."""


# Figure 15 with the stem of Figure 14. At 299x299: 35x35x256, 17x17x896, 8x8x1792.
V1 = Widths(
    stem=stems.CHAIN_CONV,
    block_a=([(32, 1)], [(32, 1), (32, 3)], [(32, 1), (32, 3), (32, 3)]),  # Figure 10, linear 256
    reduction_a=reduction_a(192, 192, 256, 384),  # Figure 7, Table 1
    block_b=([(128, 1)], [(128, 1), (128, (1, 7)), (128, (7, 1))]),  # Figure 11, linear 896
    reduction_b=(  # Figure 12
        [(256, 1), (384, 3, 2, "VALID")],
        [(256, 1), (256, 3, 2, "VALID")],
        [(256, 1), (256, 3), (256, 3, 2, "VALID")],
    ),
    block_c=([(192, 1)], [(192, 1), (192, (1, 3)), (192, (3, 1))]),  # Figure 13, linear 1792
    depths=(5, 10, 5),
)

# Figure 15 with the stem of Figure 3. At 299x299: 35x35x384, 17x17x1152, 8x8x2144.
# Differs from Figures 17 and 19, whose linear layers print 1154 and 2048: a sum needs the width of its other term.
V2 = Widths(
    stem=stems.BRANCHED,
    block_a=([(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)]),  # Figure 16, linear 384
    reduction_a=reduction_a(256, 256, 384, 384),  # Figure 7, Table 1
    block_b=([(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))]),  # Figure 17, linear 1152
    reduction_b=(  # Figure 18 (its caption says v1)
        [(256, 1), (384, 3, 2, "VALID")],
        [(256, 1), (288, 3, 2, "VALID")],
        [(256, 1), (288, 3), (320, 3, 2, "VALID")],
    ),
    block_c=([(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))]),  # Figure 19, linear 2144
    depths=(5, 10, 5),
)


# facenet, the only published weights of an Inception-ResNet-v1: V1 and one more C block.
V1_FACENET = dataclasses.replace(V1, final_block=True)


class Mixed5b(nn.Module):
    """Mixed_5b of the released Inception-ResNet-v2, absent from the paper: 35x35x192 -> 35x35x320."""

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, 320]."""
        tower = functools.partial(Tower, self.layers)
        return concatenate(
            [
                tower([(96, 1)], name="branch_1")(x),
                tower([(48, 1), (64, 5)], name="branch_2")(x),
                tower([(64, 1), (96, 3), (96, 3)], name="branch_3")(x),
                tower([(64, 1)], name="branch_pool")(self.layers.average_pool(x)),
            ]
        )


# TF-Slim, Keras and timm: v2's blocks on another stem. At 299x299: 35x35x320, 17x17x1088, 8x8x2080.
V2_SLIM = dataclasses.replace(
    V2,
    stem=[*stems.CHAIN_POOL, ("mixed_5b", Mixed5b)],
    depths=(10, 20, 9),
    final_block=True,
    final_conv=1536,
)


class ResidualBlock(nn.Module):
    """Figure 20 around the towers of Figures 10, 11, 13, 16, 17 and 19: ReLU(x + scale * linear(towers(x))).

    The linear layer is a 1x1 convolution with bias, without BN and ReLU, that expands to the input's width. The sum is
    not normalised (section 3.2).
    """

    layers: Layers
    towers: Towers
    scale: float
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, C]."""
        branches = [Tower(self.layers, rows, name=f"branch_{i}")(x) for i, rows in enumerate(self.towers, start=1)]
        residual = self.layers.conv(x.shape[-1], (1, 1), name="linear")(concatenate(branches))
        x = x + self.scale * residual
        # Without it XLA recomputes the sum of all earlier residuals of the grid in every block.
        return self.layers.optimization_barrier(nn.relu(x) if self.relu else x)


class InceptionResNet(Network):
    """An Inception-ResNet (Figure 15): stem, A blocks, Reduction-A, B blocks, Reduction-B, C blocks."""

    widths: Widths = V2
    residual_scales: tuple[float, float, float] = (0.17, 0.10, 0.20)

    def stages(self) -> Sequence[Stage]:
        """Stages of Figure 15, and the two of the released code."""
        w, block = self.widths, functools.partial
        a, b, c = self.depths or w.depths
        scale_a, scale_b, scale_c = self.residual_scales
        stages: list[Stage] = [
            *w.stem,
            *numbered("block_a", a, block(ResidualBlock, towers=w.block_a, scale=scale_a)),
            ("reduction_a", block(Reduction, towers=w.reduction_a)),
            *numbered("block_b", b, block(ResidualBlock, towers=w.block_b, scale=scale_b)),
            ("reduction_b", block(Reduction, towers=w.reduction_b)),
            *numbered("block_c", c, block(ResidualBlock, towers=w.block_c, scale=scale_c)),
        ]
        if w.final_block:
            stages.append(("block_c_final", block(ResidualBlock, towers=w.block_c, scale=1.0, relu=False)))
        if w.final_conv:
            stages.append(("final_conv", block(ConvNorm, features=w.final_conv, kernel=1)))
        return stages


class EmbeddingHead(nn.Module):
    """facenet's head: dense without bias, then batch normalisation."""

    layers: Layers
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, C] -> [N, width], in the dtype of `x`."""
        x = nn.Dense(self.width, use_bias=False, name="dense")(x)
        return self.layers.norm(dtype=x.dtype, name="bn")(x)


class FacenetResNet(InceptionResNet):
    """An Inception-ResNet whose output is an embedding of `num_classes` values (facenet: 512), not logits.

    Differs from facenet: the embedding is the output of the head's batch normalisation; facenet also divides it by its
    L2 norm.
    """

    def head(self, layers: Layers, features: jax.Array) -> jax.Array:
        """Pooled features [N, C] -> embedding [N, num_classes]."""
        return EmbeddingHead(layers, self.num_classes, name="classifier")(features)
