"""Colour distortion and normalisation on the device: pure functions for use inside a jitted step.

Training calls both functions, evaluation only the second:

    images = distort_colour(key, images)
    images = to_network_range(images)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Planes = tuple[jax.Array, jax.Array, jax.Array]
"""Red, green and blue [N, H, W], separate because XLA compiles a last axis of three into slow loops."""

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

    The default gives (x / 255 - 0.5) * 2 in [-1, 1], as in TF-Slim; other values are for weights trained elsewhere.

    Args:
      images: [..., H, W, 3], uint8 or float in [0, 1].
      mean: Mean of each channel, in [0, 1].
      std: Standard deviation of each channel.
    """
    return (_to_unit_range(images) - _channel_values(mean)) / _channel_values(std)


def distort_colour(
    key: jax.Array,
    images: jax.Array,
    *,
    brightness: float = 32 / 255,
    saturation: tuple[float, float] = (0.5, 1.5),
    hue: float = 0.2,
    contrast: tuple[float, float] = (0.5, 1.5),
    strength: float = 1.0,
) -> jax.Array:
    """Distorts colours like TF-Slim's distort_color with fast_mode=False: float32 [N, H, W, 3], clipped to [0, 1].

    The amounts are drawn for each image. The order of the four distortions depends on the position in the batch: each
    quarter of the images has one of TF-Slim's four orders. (In TF-Slim it depends on the thread that reads the image.)
    With fewer than four images some orders are not used. As in TensorFlow, only the result is clipped.

    Args:
      key: PRNG key.
      images: [N, H, W, 3], uint8 or float in [0, 1].
      brightness: Maximum change of brightness.
      saturation: Minimum and maximum factor of HSV's saturation.
      hue: Maximum rotation of HSV's hue in either direction; 1 is a full circle.
      contrast: Minimum and maximum factor of the deviation from each channel's mean over the image.
      strength: Factor on all four amounts: on the changes, and on the distance of the factors from 1.
    """
    limits = {
        "brightness": (-strength * brightness, strength * brightness),
        "saturation": _towards_one(saturation, strength),
        "hue": (-strength * hue, strength * hue),
        "contrast": _towards_one(contrast, strength),
    }

    draws = {
        name: jax.random.uniform(k, (len(images), 1, 1), minval=low, maxval=high)
        for k, (name, (low, high)) in zip(jax.random.split(key, len(limits)), limits.items(), strict=True)
    }
    unit = _to_unit_range(images)
    planes = (unit[..., 0], unit[..., 1], unit[..., 2])
    ends = [len(images) * quarter // len(_ORDERS) for quarter in range(len(_ORDERS) + 1)]
    # By position: with an order drawn for each image, XLA would compute all four and select one.
    quarters = [
        _distort_in_order(order, slice(begin, end), planes, draws)
        for order, begin, end in zip(_ORDERS, ends[:-1], ends[1:], strict=True)
    ]
    distorted = [jnp.concatenate(parts) for parts in zip(*quarters, strict=True)]
    return jnp.clip(jnp.stack(distorted, axis=-1), 0.0, 1.0)


def _towards_one(factors: tuple[float, float], strength: float) -> tuple[float, float]:
    low, high = factors
    return 1 - strength * (1 - low), 1 + strength * (high - 1)


def _channel_values(values: Sequence[float]) -> jax.Array:
    # A scalar where all are equal, to avoid a last axis of three (see `Planes`).
    same = len(set(values)) == 1
    return jnp.asarray(values[0] if same else values, jnp.float32)


def _to_unit_range(images: jax.Array) -> jax.Array:
    # Always float32: the hue divides by differences, for which the 8 bits of bfloat16 do not suffice.
    unit = images.astype(jnp.float32)
    return unit / 255.0 if images.dtype == jnp.uint8 else unit


def _distort_in_order(order: tuple[str, ...], part: slice, planes: Planes, draws: dict[str, jax.Array]) -> Planes:
    red, green, blue = planes
    planes = red[part], green[part], blue[part]
    for name in order:
        planes = _DISTORTIONS[name](planes, draws[name][part])
    return planes


# The amounts below are [N, 1, 1], one for each image.


def _adjust_brightness(planes: Planes, delta: jax.Array) -> Planes:
    red, green, blue = planes
    return red + delta, green + delta, blue + delta


def _adjust_contrast(planes: Planes, factor: jax.Array) -> Planes:
    red, green, blue = planes
    return _scale_deviation(red, factor), _scale_deviation(green, factor), _scale_deviation(blue, factor)


def _scale_deviation(plane: jax.Array, factor: jax.Array) -> jax.Array:
    mean = plane.mean(axis=(-2, -1), keepdims=True)
    return (plane - mean) * factor + mean


def _adjust_saturation(planes: Planes, factor: jax.Array) -> Planes:
    """Multiplies HSV's saturation by `factor`, up to 1, and keeps hue and value.

    With value v = max and saturation s = (max - min) / v, a channel x becomes v - (v - x) * s' / s.
    """
    red, green, blue = planes
    value, chroma = _value_and_chroma(planes)
    max_factor = value / jnp.where(chroma > 0, chroma, 1.0)
    # TensorFlow: the saturation is 0 where no channel is above 0.
    scale = jnp.where(value > 0, jnp.minimum(factor, max_factor), 0.0)
    # The scale of a grey pixel does not matter, for x = v.
    return value - (value - red) * scale, value - (value - green) * scale, value - (value - blue) * scale


def _adjust_hue(planes: Planes, turn: jax.Array) -> Planes:
    """Adds `turn` to HSV's hue (1 is a full circle); keeps the minimum and maximum of the channels."""
    red, green, blue = planes
    value, chroma = _value_and_chroma(planes)
    # Hue in sixths of the circle: 0 is red, 2 green, 4 blue.
    start = jnp.where(value == red, 0.0, jnp.where(value == green, 2.0, 4.0))
    beside = jnp.where(value == red, green - blue, jnp.where(value == green, blue - red, red - green))
    sixths = start + beside / jnp.where(chroma > 0, chroma, 1.0) + 6.0 * turn

    def plane(offset: float) -> jax.Array:
        # Falls from maximum to minimum with the distance from the channel's own hue. By floor: jnp.mod is many times
        # slower.
        distance = sixths + offset
        distance = distance - 6.0 * jnp.floor(distance / 6.0)
        return value - chroma * jnp.clip(jnp.minimum(distance, 4.0 - distance), 0.0, 1.0)

    return plane(5.0), plane(3.0), plane(1.0)


def _value_and_chroma(planes: Planes) -> tuple[jax.Array, jax.Array]:
    """Maximum of the channels, and its difference from their minimum."""
    red, green, blue = planes
    value = jnp.maximum(jnp.maximum(red, green), blue)
    return value, value - jnp.minimum(jnp.minimum(red, green), blue)


_DISTORTIONS = {
    "brightness": _adjust_brightness,
    "contrast": _adjust_contrast,
    "saturation": _adjust_saturation,
    "hue": _adjust_hue,
}
