"""From uint8 pixels to the network's input on the device: pure functions to be called inside a jitted step.

A training step calls both, an evaluation only the second:

    images = distort_colour(key, images)
    images = to_network_range(images)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# TF-Slim's four orders of the four distortions; each image gets one.
_ORDERS = (
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
)


def to_network_range(
    images: jax.Array, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> jax.Array:
    """Images as a network wants them: (x / 255 - mean) / std, float32 [..., H, W, 3].

    With the default that is (x / 255 - 0.5) * 2 in [-1, 1] (section 4 by way of TF-Slim); another mean and deviation is
    for weights that were trained elsewhere.

    Args:
      images: [..., H, W, 3], uint8 or already a float in [0, 1].
      mean: Of each channel, in [0, 1].
      std: Of each channel.
    """
    images = _to_unit_range(images)
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)


def distort_colour(
    key: jax.Array,
    images: jax.Array,
    *,
    brightness: float = 32 / 255,
    saturation: tuple[float, float] = (0.5, 1.5),
    hue: float = 0.2,
    contrast: tuple[float, float] = (0.5, 1.5),
) -> jax.Array:
    """TF-Slim's distort_color in its full mode: float32 [N, H, W, 3], clipped to [0, 1].

    Each image has its own draws and its own one of TF-Slim's four orders. In between nothing is clipped, as in
    TensorFlow; brightness and contrast can leave [0, 1] and come back.

    Args:
      key: Where every draw comes from.
      images: [N, H, W, 3], uint8 or already a float in [0, 1].
      brightness: Greatest amount added or taken away.
      saturation: Least and greatest factor on HSV's saturation.
      hue: Greatest turn of HSV's hue in either direction; 1 is the whole circle.
      contrast: Least and greatest factor on the distance from the image's mean of each channel.
    """
    limits = {
        "brightness": (-brightness, brightness),
        "saturation": saturation,
        "hue": (-hue, hue),
        "contrast": contrast,
    }

    def distort(key: jax.Array, image: jax.Array) -> jax.Array:
        order_key, *keys = jax.random.split(key, 1 + len(limits))
        draws = {
            name: jax.random.uniform(k, minval=low, maxval=high)
            for k, (name, (low, high)) in zip(keys, limits.items(), strict=True)
        }
        order = jax.random.randint(order_key, (), 0, len(_ORDERS))
        return jax.lax.switch(order, [lambda x, o=o: _in_order(x, o, draws) for o in _ORDERS], image)

    images = _to_unit_range(images)
    # Mapped, the switch computes all four orders and keeps one: on a CPU three times the work of a loop over the
    # images (3.9 against 1.2 ms for one of 149 pixels), but a loop would leave an accelerator waiting at every image.
    distorted = jax.vmap(distort)(jax.random.split(key, len(images)), images)
    return jnp.clip(distorted, 0.0, 1.0)


def _to_unit_range(images: jax.Array) -> jax.Array:
    # float32 whatever the convolutions use: bfloat16 has 8 bits, and hue divides by differences.
    unit = images.astype(jnp.float32)
    return unit / 255.0 if images.dtype == jnp.uint8 else unit


def _in_order(image: jax.Array, order: tuple[str, ...], draws: dict[str, jax.Array]) -> jax.Array:
    for name in order:
        image = _DISTORTIONS[name](image, draws[name])
    return image


def _adjust_brightness(image: jax.Array, delta: jax.Array) -> jax.Array:
    return image + delta


def _adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    mean = image.mean(axis=(-3, -2), keepdims=True)
    return (image - mean) * factor + mean


def _adjust_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """HSV's saturation times `factor` and at most 1, hue and value kept.

    With the value v = max and the saturation s = (max - min) / v, a channel x of that hue is v - (v - x) * s'/s.
    """
    value = image.max(axis=-1, keepdims=True)
    chroma = value - image.min(axis=-1, keepdims=True)
    most = value / jnp.where(chroma > 0, chroma, 1.0)
    # A pixel whose every channel is at most 0 has no saturation in TensorFlow.
    scale = jnp.where(value > 0, jnp.minimum(factor, most), 0.0)
    # Grey pixels have x = v, so that their scale does not matter.
    return value - (value - image) * scale


def _adjust_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """HSV's hue plus `turn` (1 is the whole circle), greatest and least channel kept."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = image.max(axis=-1)
    chroma = value - image.min(axis=-1)
    divisor = jnp.where(chroma > 0, chroma, 1.0)
    # The hue in sixths of the circle: 0 red, 2 green, 4 blue.
    sixths = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    sixths = sixths + 6.0 * turn
    # Each channel falls from the greatest to the least value with its distance from its own colour on the circle.
    distances = (sixths[..., None] + jnp.array([5.0, 3.0, 1.0])) % 6.0
    fall = jnp.clip(jnp.minimum(distances, 4.0 - distances), 0.0, 1.0)
    return value[..., None] - chroma[..., None] * fall


_DISTORTIONS = {
    "brightness": _adjust_brightness,
    "contrast": _adjust_contrast,
    "saturation": _adjust_saturation,
    "hue": _adjust_hue,
}
