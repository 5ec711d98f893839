"""Stems, from the image to the 35x35 grid, as lists of stages that networks share."""

import functools

import flax.linen as nn
import jax

from inception_jax.models.blocks import ConvNorm, Layers, MaxPool, Tower, concatenate
from inception_jax.models.network import Stage


class PoolBesideConv(nn.Module):
    """First branching of Figure 3: 147x147x64 -> 73x73x160."""

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, (H - 1) // 2, (W - 1) // 2, C + 96]."""
        return concatenate([self.layers.max_pool(x), ConvNorm(self.layers, 96, 3, 2, "VALID", name="conv")(x)])


class ShortBesideLong(nn.Module):
    """Second branching of Figure 3: 73x73x160 -> 71x71x192.

    Differs from Figure 3: 1x7 comes before 7x1, as in the released code.
    """

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H - 2, W - 2, 192]."""
        short = [(64, 1), (96, 3, 1, "VALID")]
        long = [(64, 1), (64, (1, 7)), (64, (7, 1)), (96, 3, 1, "VALID")]
        return concatenate(
            [Tower(self.layers, short, name="branch_1")(x), Tower(self.layers, long, name="branch_2")(x)]
        )


class ConvBesidePool(nn.Module):
    """Third branching of Figure 3: 71x71x192 -> 35x35x384. The figure omits the stride 2 of its convolution."""

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, (H - 1) // 2, (W - 1) // 2, C + 192]."""
        return concatenate([ConvNorm(self.layers, 192, 3, 2, "VALID", name="conv")(x), self.layers.max_pool(x)])


def _conv(*row) -> functools.partial:
    names = ("features", "kernel", "strides", "padding")
    return functools.partial(ConvNorm, **dict(zip(names, row, strict=False)))


ENTRY: list[Stage] = [
    ("stem_conv_1", _conv(32, 3, 2, "VALID")),  # 149x149x32
    ("stem_conv_2", _conv(32, 3, 1, "VALID")),  # 147x147x32
    ("stem_conv_3", _conv(64, 3)),  # 147x147x64
]

BRANCHED: list[Stage] = [
    *ENTRY,
    ("stem_mixed_1", PoolBesideConv),  # 73x73x160
    ("stem_mixed_2", ShortBesideLong),  # 71x71x192
    ("stem_mixed_3", ConvBesidePool),  # 35x35x384
]
"""Stem of Inception-v4 and of the paper's Inception-ResNet-v2 (Figure 3)."""

CHAIN: list[Stage] = [
    *ENTRY,
    ("stem_pool_1", MaxPool),  # 73x73x64
    ("stem_conv_4", _conv(80, 1)),  # 73x73x80
    ("stem_conv_5", _conv(192, 3, 1, "VALID")),  # 71x71x192
]
"""First six layers of Figure 14, shared with Inception-v3 and the released Inception-ResNet-v2."""

CHAIN_CONV: list[Stage] = [*CHAIN, ("stem_conv_6", _conv(256, 3, 2, "VALID"))]  # 35x35x256
"""Stem of Inception-ResNet-v1 (Figure 14)."""

CHAIN_POOL: list[Stage] = [*CHAIN, ("stem_pool_2", MaxPool)]  # 35x35x192
"""Stem of Inception-v3 and of the released Inception-ResNet-v2."""
