"""Initial variables of a network, drawn leaf by leaf.

`model.init` compiles all draws of a network into one XLA program: 40 s for an Inception-ResNet-v2 on two cores. Here
`jax.eval_shape` gives the shapes and NumPy draws the values, in about a second. A leaf depends only on the seed and its
own name, so its values are the same on every host, device and version of JAX.
"""

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_map_with_path

from inception_jax.models.network import Network

# Standard deviation of a standard normal truncated at two standard deviations.
_TRUNCATED_STD = 0.87962566103423978


def initial_variables(model: Network, seed: int, image_size: int = 299) -> dict[str, Any]:
    """Draws `{"params": ..., "batch_stats": ...}` as NumPy arrays, distributed as by `model.init`.

    Convolutions are He's truncated normal over their inputs, classifiers LeCun's; biases and running means are 0,
    scales and running variances 1. No shape depends on `image_size` (pixels).
    """
    shapes = variable_shapes(model, image_size)
    return tree_map_with_path(lambda path, leaf: _draw(keystr(path, simple=True, separator="/"), leaf, seed), shapes)


@functools.cache
def variable_shapes(model: Network, image_size: int | tuple[int, int] = 299) -> dict[str, Any]:
    """Shapes and dtypes of `{"params": ..., "batch_stats": ...}`, for square images or (height, width).

    Cached, because a start needs them several times and tracing a deep network takes a second.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def _draw(name: str, leaf: jax.ShapeDtypeStruct, seed: int) -> np.ndarray:
    kind = name.rpartition("/")[2]
    if kind in ("bias", "mean"):
        return np.zeros(leaf.shape, leaf.dtype)
    if kind in ("scale", "var"):
        return np.ones(leaf.shape, leaf.dtype)
    gain = 2.0 if len(leaf.shape) == 4 else 1.0
    fan_in = int(np.prod(leaf.shape[:-1]))
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    draws = _truncated_normal(rng, leaf.shape)
    return (draws * np.float32(np.sqrt(gain / fan_in) / _TRUNCATED_STD)).astype(leaf.dtype)


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    draws = rng.standard_normal(shape, dtype=np.float32)
    while (outside := np.abs(draws) > 2).any():
        draws[outside] = rng.standard_normal(int(outside.sum()), dtype=np.float32)
    return draws
