"""Inception-v3 ("Rethinking the Inception Architecture", arXiv 1512.00567), the paper's baseline, as released.

torchvision and timm count the padding in the average pools: use `count_include_pad=True` for their weights.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax

from inception_jax.errors import UserError
from inception_jax.models import stems
from inception_jax.models.blocks import Layers, Reduction, Tower, concatenate
from inception_jax.models.network import Network, Stage


class Inception35(nn.Module):
    """TF-Slim's Mixed_5b to Mixed_5d: 35x35x(192, 256 or 288) -> 35x35x(224 + pool_features)."""

    layers: Layers
    pool_features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, 224 + pool_features]."""
        tower = functools.partial(Tower, self.layers)
        return concatenate(
            [
                tower([(64, 1)], name="branch_1")(x),
                tower([(48, 1), (64, 5)], name="branch_2")(x),
                tower([(64, 1), (96, 3), (96, 3)], name="branch_3")(x),
                tower([(self.pool_features, 1)], name="branch_pool")(self.layers.average_pool(x)),
            ]
        )


class Inception17(nn.Module):
    """TF-Slim's Mixed_6b to Mixed_6e: 17x17x768 -> 17x17x768, its 7x7 kernels factorised."""

    layers: Layers
    inner: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, 768]."""
        tower, n = functools.partial(Tower, self.layers), self.inner
        return concatenate(
            [
                tower([(192, 1)], name="branch_1")(x),
                tower([(n, 1), (n, (1, 7)), (192, (7, 1))], name="branch_2")(x),
                tower([(n, 1), (n, (7, 1)), (n, (1, 7)), (n, (7, 1)), (192, (1, 7))], name="branch_3")(x),
                tower([(192, 1)], name="branch_pool")(self.layers.average_pool(x)),
            ]
        )


class Inception8(nn.Module):
    """TF-Slim's Mixed_7b and Mixed_7c: 8x8x(1280 or 2048) -> 8x8x2048."""

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, 2048]."""
        tower = functools.partial(Tower, self.layers)
        short = tower([(384, 1)], name="branch_2")(x)
        long = tower([(448, 1), (384, 3)], name="branch_3")(x)
        return concatenate(
            [
                tower([(320, 1)], name="branch_1")(x),
                tower([(384, (1, 3))], name="branch_2_wide")(short),
                tower([(384, (3, 1))], name="branch_2_high")(short),
                tower([(384, (1, 3))], name="branch_3_wide")(long),
                tower([(384, (3, 1))], name="branch_3_high")(long),
                tower([(192, 1)], name="branch_pool")(self.layers.average_pool(x)),
            ]
        )


# Mixed_6a: 35x35x288 -> 17x17x768.
REDUCTION_A = ([(384, 3, 2, "VALID")], [(64, 1), (96, 3), (96, 3, 2, "VALID")])

# Mixed_7a: 17x17x768 -> 8x8x1280.
REDUCTION_B = (
    [(192, 1), (320, 3, 2, "VALID")],
    [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, "VALID")],
)


class InceptionV3(Network):
    """Inception-v3 as released: stem, three blocks at 35x35, four at 17x17, two at 8x8."""

    def stages(self) -> Sequence[Stage]:
        """Stages of TF-Slim's inception_v3."""
        if self.depths not in (None, (3, 4, 2)):
            raise UserError(f"depths is {self.depths}; inception_v3 has only (3, 4, 2), because its blocks differ.")
        return [
            *stems.CHAIN_POOL,
            ("inception_a_1", functools.partial(Inception35, pool_features=32)),
            ("inception_a_2", functools.partial(Inception35, pool_features=64)),
            ("inception_a_3", functools.partial(Inception35, pool_features=64)),
            ("reduction_a", functools.partial(Reduction, towers=REDUCTION_A)),
            ("inception_b_1", functools.partial(Inception17, inner=128)),
            ("inception_b_2", functools.partial(Inception17, inner=160)),
            ("inception_b_3", functools.partial(Inception17, inner=160)),
            ("inception_b_4", functools.partial(Inception17, inner=192)),
            ("reduction_b", functools.partial(Reduction, towers=REDUCTION_B)),
            ("inception_c_1", Inception8),
            ("inception_c_2", Inception8),
        ]
