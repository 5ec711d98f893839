"""Building blocks of the networks: convolution + BN + ReLU, chains of them, and reductions.

Shapes are NHWC; a kernel `(1, 7)` has height 1 and width 7.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# TF-Slim's slim.variance_scaling_initializer(): He et al. over the inputs, truncated at two standard deviations.
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")

Row = tuple[Any, ...]
"""Convolution in a table: (features, kernel), (features, kernel, strides) or (features, kernel, strides, padding)."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """Layer constructors with a network's settings, shared by all its blocks."""

    conv: Callable[..., nn.Module]
    """`nn.Conv` with its dtype and initialiser."""
    norm: Callable[..., nn.Module]
    """`nn.BatchNorm` with its dtype, momentum and mode."""
    max_pool: Callable[[jax.Array], jax.Array]
    """`Ops.max_pool`: 3x3, stride 2, VALID."""
    average_pool: Callable[[jax.Array], jax.Array]
    """`Ops.average_pool`: 3x3, stride 1, SAME."""
    optimization_barrier: Callable[[jax.Array], jax.Array]
    """`Ops.optimization_barrier`."""
    width: float
    """Factor on the features of every convolution."""

    def scaled(self, features: int) -> int:
        """`features` times the width, rounded, at least 1."""
        return max(1, int(features * self.width + 0.5))


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, ReLU: every convolution of the paper but the linear ones."""

    layers: Layers
    features: int
    kernel: int | tuple[int, int]
    strides: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H / strides, W / strides, features * width]."""
        kernel = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        x = self.layers.conv(
            self.layers.scaled(self.features),
            kernel,
            strides=self.strides,
            padding=self.padding,
            use_bias=False,
            name="conv",
        )(x)
        return nn.relu(self.layers.norm(name="bn")(x))


class Tower(nn.Module):
    """Chain of `ConvNorm`: one branch of a block, its rows in the order of the figure from bottom to top."""

    layers: Layers
    rows: Sequence[Row]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H', W', features of the last row * width]."""
        for i, row in enumerate(self.rows, start=1):
            x = ConvNorm(self.layers, *row, name=f"conv_{i}")(x)
        return x


class MaxPool(nn.Module):
    """3x3 maximum of stride 2, VALID, as a stage of its own."""

    layers: Layers

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, (H - 1) // 2, (W - 1) // 2, C]."""
        return self.layers.max_pool(x)


class Reduction(nn.Module):
    """Towers that end in stride 2, beside a max pool: Figures 7, 8, 12 and 18.

    Differs from the figures: the pool is concatenated last, as in the released code, so that trained weights load.
    """

    layers: Layers
    towers: Sequence[Sequence[Row]]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, (H - 1) // 2, (W - 1) // 2, towers + C]."""
        branches = [Tower(self.layers, rows, name=f"branch_{i}")(x) for i, rows in enumerate(self.towers, start=1)]
        return concatenate([*branches, self.layers.max_pool(x)])


def reduction_a(k: int, l: int, m: int, n: int) -> tuple[Sequence[Row], ...]:  # noqa: E741 (the paper's letters)
    """Towers of Reduction-A (Figure 7, Table 1): 35x35 -> 17x17."""
    return [(n, 3, 2, "VALID")], [(k, 1), (l, 3), (m, 3, 2, "VALID")]


def concatenate(branches: Sequence[jax.Array]) -> jax.Array:
    """Filter concatenation: [N, H, W, C_i] -> [N, H, W, sum of C_i]."""
    return jnp.concatenate(branches, axis=-1)
