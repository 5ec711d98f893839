"""Conversion of uint8 pixels to the network's input on the device: pure functions for use inside a jitted step.

A training step calls both, an evaluation only the second:

    images = distort_colour(key, images)
    images = to_network_range(images)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Planes = tuple[jax.Array, jax.Array, jax.Array]
"""Red, green and blue [N, H, W]: apart, because XLA makes slow loops of a last axis of three."""

# TF-Slim's four orders of the four distortions.
_ORDERS = (
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
)


def to_network_range(
    images: jax.Array, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> jax.Array:
    """Normalises images for a network: (x / 255 - mean) / std, float32 [..., H, W, 3].

    With the default that is (x / 255 - 0.5) * 2 in [-1, 1] (section 4 by way of TF-Slim); another mean and deviation is
    for weights that were trained elsewhere.

    Args:
      images: [..., H, W, 3], uint8 or already a float in [0, 1].
      mean: Of each channel, in [0, 1].
      std: Of each channel.
    """
    return (_to_unit_range(images) - _of_channels(mean)) / _of_channels(std)


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

    Each image has its own draws. Which of TF-Slim's four orders it gets goes by its place: the first quarter of the
    images gets the first, and so on. (In TF-Slim it goes by the thread that reads the image.) Training images come
    shuffled, so that each gets each in time; with fewer than four images some orders are never used. In between
    nothing is clipped, as in TensorFlow; brightness and contrast can leave [0, 1] and come back.

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

    draws = {
        name: jax.random.uniform(k, (len(images), 1, 1), minval=low, maxval=high)
        for k, (name, (low, high)) in zip(jax.random.split(key, len(limits)), limits.items(), strict=True)
    }
    unit = _to_unit_range(images)
    planes = (unit[..., 0], unit[..., 1], unit[..., 2])
    ends = [len(images) * quarter // len(_ORDERS) for quarter in range(len(_ORDERS) + 1)]
    # By place and not by a draw: mapped over the images, a drawn order would compute all four and keep one.
    quarters = [
        _in_order(order, slice(begin, end), planes, draws)
        for order, begin, end in zip(_ORDERS, ends[:-1], ends[1:], strict=True)
    ]
    distorted = [jnp.concatenate(parts) for parts in zip(*quarters, strict=True)]
    return jnp.clip(jnp.stack(distorted, axis=-1), 0.0, 1.0)


def _of_channels(values: Sequence[float]) -> jax.Array:
    # One number where the three are the same, for the reason that `Planes` are apart.
    same = len(set(values)) == 1
    return jnp.asarray(values[0] if same else values, jnp.float32)


def _to_unit_range(images: jax.Array) -> jax.Array:
    # float32 whatever the convolutions use: bfloat16 has 8 bits, and hue divides by differences.
    unit = images.astype(jnp.float32)
    return unit / 255.0 if images.dtype == jnp.uint8 else unit


def _in_order(order: tuple[str, ...], of: slice, planes: Planes, draws: dict[str, jax.Array]) -> Planes:
    red, green, blue = planes
    planes = red[of], green[of], blue[of]
    for name in order:
        planes = _DISTORTIONS[name](planes, draws[name][of])
    return planes


# Each of these takes a draw of each image [N, 1, 1].


def _adjust_brightness(planes: Planes, delta: jax.Array) -> Planes:
    red, green, blue = planes
    return red + delta, green + delta, blue + delta


def _adjust_contrast(planes: Planes, factor: jax.Array) -> Planes:
    red, green, blue = planes
    return _spread(red, factor), _spread(green, factor), _spread(blue, factor)


def _spread(plane: jax.Array, factor: jax.Array) -> jax.Array:
    mean = plane.mean(axis=(-2, -1), keepdims=True)
    return (plane - mean) * factor + mean


def _adjust_saturation(planes: Planes, factor: jax.Array) -> Planes:
    """HSV's saturation times `factor` and at most 1, hue and value kept.

    With the value v = max and the saturation s = (max - min) / v, a channel x of that hue is v - (v - x) * s'/s.
    """
    red, green, blue = planes
    value, chroma = _value_and_chroma(planes)
    most = value / jnp.where(chroma > 0, chroma, 1.0)
    # A pixel whose every channel is at most 0 has no saturation in TensorFlow.
    scale = jnp.where(value > 0, jnp.minimum(factor, most), 0.0)
    # Grey pixels have x = v, so that their scale does not matter.
    return value - (value - red) * scale, value - (value - green) * scale, value - (value - blue) * scale


def _adjust_hue(planes: Planes, turn: jax.Array) -> Planes:
    """HSV's hue plus `turn` (1 is the whole circle), greatest and least channel kept."""
    red, green, blue = planes
    value, chroma = _value_and_chroma(planes)
    # The hue in sixths of the circle: 0 red, 2 green, 4 blue.
    start = jnp.where(value == red, 0.0, jnp.where(value == green, 2.0, 4.0))
    beside = jnp.where(value == red, green - blue, jnp.where(value == green, blue - red, red - green))
    sixths = start + beside / jnp.where(chroma > 0, chroma, 1.0) + 6.0 * turn

    def plane(offset: float) -> jax.Array:
        # Falls from the greatest to the least value with the distance from the channel's own colour on the circle. The
        # remainder by way of floor: the one of a division is many times slower.
        distance = sixths + offset
        distance = distance - 6.0 * jnp.floor(distance / 6.0)
        return value - chroma * jnp.clip(jnp.minimum(distance, 4.0 - distance), 0.0, 1.0)

    return plane(5.0), plane(3.0), plane(1.0)


def _value_and_chroma(planes: Planes) -> tuple[jax.Array, jax.Array]:
    """The greatest of the channels, and how much greater than the least it is."""
    red, green, blue = planes
    value = jnp.maximum(jnp.maximum(red, green), blue)
    return value, value - jnp.minimum(jnp.minimum(red, green), blue)


_DISTORTIONS = {
    "brightness": _adjust_brightness,
    "contrast": _adjust_contrast,
    "saturation": _adjust_saturation,
    "hue": _adjust_hue,
}
