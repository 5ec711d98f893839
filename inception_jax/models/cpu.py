"""Convolution and pooling in the forms that XLA computes fastest on a CPU; the numbers are the plain ones to rounding.

XLA's own gradients of a convolution copy transposed images, or spread zeros between the values of a strided one; its
pools go over their windows a number at a time. Matrix products and sums of whole images do the same arithmetic without.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], ...]
"""Zeros before and after, of the height and of the width."""
Pair = tuple[int, int]

_FEW, _LARGE = 1024, 2**16
"""Values of a channel in a batch, and numbers in a kernel: with so few and so many, transposing the kernel, which XLA
does, takes longer than the products with it."""
_MANY = 512
"""Values of a channel in a batch, from which transposing a gradient costs less than it saves."""


def convolve(images: jax.Array, kernel: jax.Array, window_strides: Sequence[int], padding: Any, **_: Any) -> jax.Array:
    """`lax.conv_general_dilated` as `nn.Conv` calls it, of NHWC images and an HWIO kernel, not dilated or grouped.

    Only its gradients differ from the plain form; forward-mode differentiation is not to be had.
    """
    pads = lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], window_strides, padding)
    return _convolution(images, kernel, tuple(window_strides), tuple(pads))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(images: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    return _plain(images, kernel, strides, pads)


def _plain(images: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    return lax.conv_general_dilated(images, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(images: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> tuple[jax.Array, Any]:
    return _plain(images, kernel, strides, pads), (images, kernel)


def _backward(strides: Pair, pads: Pads, saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    images, kernel = saved
    flat = _flat(gradient)
    few = flat.shape[0] <= _FEW and kernel.size >= _LARGE
    if kernel.shape[:2] != (1, 1) and strides == (1, 1) and not few:
        return jax.vjp(functools.partial(_plain, strides=strides, pads=pads), images, kernel)[1](gradient)
    # As many matrix products as the kernel has taps: [N H W, C] the images under a tap, [N H W, F] the gradient.
    # The barriers, here and below, have them computed once and not again in every use.
    padded = lax.optimization_barrier(_padded(images, pads))
    under = [_flat(part) for part in _taps(padded, kernel.shape[:2], strides, gradient.shape[1:3])]
    of_kernel = jnp.stack(_products(under, flat)).reshape(kernel.shape)
    of_taps = (flat @ kernel.reshape(-1, kernel.shape[-1]).T).reshape(*gradient.shape[:3], -1, images.shape[3])
    return _summed(of_taps, images.shape, kernel.shape[:2], strides, pads), of_kernel


_convolution.defvjp(_forward, _backward)


def _products(under: Sequence[jax.Array], flat: jax.Array) -> list[jax.Array]:
    """[N H W, C] each, [N H W, F] -> the sums over N H W, [C, F] each."""
    if flat.shape[0] < _MANY or under[0].shape[1] < 1.5 * flat.shape[1]:
        return [(flat.T @ part).T for part in under]
    # A product of what has been transposed runs at up to 1.6 times the rate, and pays where that is the smaller part.
    turned = lax.optimization_barrier(flat.T)
    return [lax.optimization_barrier(turned @ part).T for part in under]


def _padded(images: jax.Array, pads: Pads) -> jax.Array:
    return jnp.pad(images, ((0, 0), *pads, (0, 0)))


def _flat(images: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N H W, C]."""
    return images.reshape(-1, images.shape[-1])


def _taps(images: jax.Array, kernel: Pair, strides: Pair, grid: Sequence[int]) -> list[jax.Array]:
    """The part of the images under each tap of a kernel, [N, *grid, C] each, row by row."""
    (high, wide), (down, right) = grid, strides
    return [
        images[:, i : i + (high - 1) * down + 1 : down, j : j + (wide - 1) * right + 1 : right]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _summed(of_taps: jax.Array, shape: Sequence[int], kernel: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """Gradients under each tap, [N, H', W', taps, C] -> of the images, [N, H, W, C]: what `_taps` is the inverse of."""
    zero, parts = jnp.zeros((), of_taps.dtype), []
    for tap in range(of_taps.shape[3]):
        # What lies outside the images was padding: a negative pad cuts it off.
        edges = [
            (at - before, size + before - at - (count - 1) * stride - 1, stride - 1)
            for at, (before, _), size, count, stride in zip(
                divmod(tap, kernel[1]), pads, shape[1:3], of_taps.shape[1:3], strides, strict=True
            )
        ]
        parts.append(lax.pad(of_taps[:, :, :, tap], zero, ((0, 0, 0), *edges, (0, 0, 0))))
    return lax.optimization_barrier(functools.reduce(jnp.add, parts))


@jax.custom_vjp
def max_pool(images: jax.Array) -> jax.Array:
    """3x3 maximum of stride 2, VALID: [N, H, W, C] -> [N, (H - 1) // 2, (W - 1) // 2, C]."""
    high, wide = _halved(images)
    rows = functools.reduce(jnp.maximum, [images[:, i : i + 2 * high - 1 : 2] for i in range(3)])
    return functools.reduce(jnp.maximum, [rows[:, :, j : j + 2 * wide - 1 : 2] for j in range(3)])


def _halved(images: jax.Array) -> Pair:
    return (images.shape[1] - 1) // 2, (images.shape[2] - 1) // 2


def _max_pool_forward(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    return max_pool(images), images


def _max_pool_backward(images: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    number, high, wide, channels = gradient.shape
    largest, *others = _taps(images, (3, 3), (2, 2), (high, wide))
    first = jnp.zeros(gradient.shape, jnp.int32)
    for tap, part in enumerate(others, start=1):
        # Of equals the first one counts, as in XLA's own. They are not compared with what the forward pass found: XLA
        # may compute the images again, with another rounding, and none would be equal.
        larger = part > largest
        largest, first = jnp.where(larger, part, largest), jnp.where(larger, tap, first)
    first = lax.optimization_barrier(first)

    def placed(tap: int, down: int, right: int) -> jax.Array:
        chosen = jnp.where(first == tap, gradient, jnp.zeros((), gradient.dtype))
        return jnp.pad(chosen, ((0, 0), (down, 1 - down), (right, 1 - right), (0, 0)))

    # Even rows are a window's first and the next one's last, and so are even columns.
    even = [placed(0, 0, 0) + placed(2, 0, 1) + placed(6, 1, 0) + placed(8, 1, 1), placed(1, 0, 0) + placed(7, 1, 0)]
    odd = [placed(3, 0, 0) + placed(5, 0, 1), placed(4, 0, 0)]
    pairs = jnp.stack([jnp.stack(even, axis=3), jnp.stack(odd, axis=3)], axis=2)
    whole = pairs.reshape(number, 2 * high + 2, 2 * wide + 2, channels)[:, : images.shape[1], : images.shape[2]]
    return (whole,)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(images: jax.Array, *, count_include_pad: bool) -> jax.Array:
    """3x3 average of stride 1, SAME, [N, H, W, C] to the same; `count_include_pad` divides by 9 at the borders too."""
    grid = images.shape[1:3]
    pads = ((1, 1), (1, 1))
    total = functools.reduce(jnp.add, _taps(_padded(images, pads), (3, 3), (1, 1), grid))
    if count_include_pad:
        return total / 9
    ones = _padded(jnp.ones((1, *grid, 1), images.dtype), pads)
    return total / functools.reduce(jnp.add, _taps(ones, (3, 3), (1, 1), grid))
