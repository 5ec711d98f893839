"""Convolution and pooling by backend: XLA's own, and CPU versions that are faster and equal up to rounding.

On CPU, XLA's gradients of a convolution copy transposed images, or insert zeros between strided values, and its pools
visit one value at a time. Matrix products, and sums and maxima of shifted images, do the same arithmetic faster.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], ...]
"""Padding (before, after) of height and width."""
Pair = tuple[int, int]

_SMALL_GRID, _LARGE_KERNEL = 1024, 2**16
"""Up to this many positions N*H*W, with at least this many weights, XLA's kernel transpose costs more than the GEMM."""
_LARGE_GRID = 512
"""Positions N*H*W from which transposing a gradient saves more than it costs."""


def cpu_convolve(
    images: jax.Array, kernel: jax.Array, window_strides: Sequence[int], padding: Any, **_: Any
) -> jax.Array:
    """`lax.conv_general_dilated` of NHWC images and an HWIO kernel as `nn.Conv` calls it, undilated and ungrouped.

    Only the gradients are computed differently. Forward-mode differentiation is not supported.
    """
    pads = lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], window_strides, padding)
    return _cpu_conv(images, kernel, tuple(window_strides), tuple(pads))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _cpu_conv(images: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    return _conv(images, kernel, strides, pads)


def _conv(images: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    return lax.conv_general_dilated(images, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(images: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> tuple[jax.Array, Any]:
    return _conv(images, kernel, strides, pads), (images, kernel)


def _backward(strides: Pair, pads: Pads, saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    images, kernel = saved
    grad_2d = _as_matrix(gradient)
    small = grad_2d.shape[0] <= _SMALL_GRID and kernel.size >= _LARGE_KERNEL
    if kernel.shape[:2] != (1, 1) and strides == (1, 1) and not small:
        return jax.vjp(functools.partial(_conv, strides=strides, pads=pads), images, kernel)[1](gradient)
    # One matrix product per kernel position: patches [N H W, C], gradient [N H W, F].
    # The barriers, here and below, stop XLA from recomputing an operand in each of its uses.
    padded = lax.optimization_barrier(_pad(images, pads))
    patches = [_as_matrix(part) for part in _patches(padded, kernel.shape[:2], strides, gradient.shape[1:3])]
    kernel_gradient = jnp.stack(_kernel_gradients(patches, grad_2d)).reshape(kernel.shape)
    patch_gradients = (grad_2d @ kernel.reshape(-1, kernel.shape[-1]).T).reshape(
        *gradient.shape[:3], -1, images.shape[3]
    )
    return _col2im(patch_gradients, images.shape, kernel.shape[:2], strides, pads), kernel_gradient


_cpu_conv.defvjp(_forward, _backward)


def _kernel_gradients(patches: Sequence[jax.Array], grad_2d: jax.Array) -> list[jax.Array]:
    """Patches [N H W, C], gradient [N H W, F] -> their products summed over N H W, [C, F] for each patch."""
    if grad_2d.shape[0] < _LARGE_GRID or patches[0].shape[1] < 1.5 * grad_2d.shape[1]:
        return [(grad_2d.T @ part).T for part in patches]
    # A product with a transposed copy runs up to 1.6 times faster; that pays if the gradient is the smaller operand.
    grad_t = lax.optimization_barrier(grad_2d.T)
    return [lax.optimization_barrier(grad_t @ part).T for part in patches]


def _pad(images: jax.Array, pads: Pads) -> jax.Array:
    return jnp.pad(images, ((0, 0), *pads, (0, 0)))


def _as_matrix(images: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N H W, C]."""
    return images.reshape(-1, images.shape[-1])


def _patches(images: jax.Array, kernel: Pair, strides: Pair, grid: Sequence[int]) -> list[jax.Array]:
    """Patches of the images at each kernel position, row by row, [N, *grid, C] each."""
    (height, width), (stride_h, stride_w) = grid, strides
    return [
        images[:, i : i + (height - 1) * stride_h + 1 : stride_h, j : j + (width - 1) * stride_w + 1 : stride_w]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _col2im(patch_gradients: jax.Array, shape: Sequence[int], kernel: Pair, strides: Pair, pads: Pads) -> jax.Array:
    """Gradients of patches [N, H', W', taps, C] -> gradient of images [N, H, W, C]: the transpose of `_patches`."""
    zero, parts = jnp.zeros((), patch_gradients.dtype), []
    for tap in range(patch_gradients.shape[3]):
        # A negative pad cuts off what fell on the padding.
        edges = [
            (at - before, size + before - at - (count - 1) * stride - 1, stride - 1)
            for at, (before, _), size, count, stride in zip(
                divmod(tap, kernel[1]), pads, shape[1:3], patch_gradients.shape[1:3], strides, strict=True
            )
        ]
        parts.append(lax.pad(patch_gradients[:, :, :, tap], zero, ((0, 0, 0), *edges, (0, 0, 0))))
    return lax.optimization_barrier(functools.reduce(jnp.add, parts))


@jax.custom_vjp
def cpu_max_pool(images: jax.Array) -> jax.Array:
    """`Ops.max_pool`."""
    height, width = (images.shape[1] - 1) // 2, (images.shape[2] - 1) // 2
    rows = functools.reduce(jnp.maximum, [images[:, i : i + 2 * height - 1 : 2] for i in range(3)])
    return functools.reduce(jnp.maximum, [rows[:, :, j : j + 2 * width - 1 : 2] for j in range(3)])


def _cpu_max_pool_forward(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    return cpu_max_pool(images), images


def _cpu_max_pool_backward(images: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    number, height, width, channels = gradient.shape
    largest, *others = _patches(images, (3, 3), (2, 2), (height, width))
    first = jnp.zeros(gradient.shape, jnp.int32)
    for tap, part in enumerate(others, start=1):
        # The first of equal values wins, as in XLA's own pool. The maxima of the forward pass are no reference: XLA may
        # recompute the images with another rounding, and then none would be equal.
        larger = part > largest
        largest, first = jnp.where(larger, part, largest), jnp.where(larger, tap, first)
    first = lax.optimization_barrier(first)

    def scattered(tap: int, row: int, column: int) -> jax.Array:
        chosen = jnp.where(first == tap, gradient, jnp.zeros((), gradient.dtype))
        return jnp.pad(chosen, ((0, 0), (row, 1 - row), (column, 1 - column), (0, 0)))

    # Even rows and columns are the last of one window and the first of the next.
    even = [
        scattered(0, 0, 0) + scattered(2, 0, 1) + scattered(6, 1, 0) + scattered(8, 1, 1),
        scattered(1, 0, 0) + scattered(7, 1, 0),
    ]
    odd = [scattered(3, 0, 0) + scattered(5, 0, 1), scattered(4, 0, 0)]
    pairs = jnp.stack([jnp.stack(even, axis=3), jnp.stack(odd, axis=3)], axis=2)
    gradients = pairs.reshape(number, 2 * height + 2, 2 * width + 2, channels)[:, : images.shape[1], : images.shape[2]]
    return (gradients,)


cpu_max_pool.defvjp(_cpu_max_pool_forward, _cpu_max_pool_backward)


def cpu_average_pool(images: jax.Array, *, count_include_pad: bool) -> jax.Array:
    """`Ops.average_pool`."""
    grid = images.shape[1:3]
    pads = ((1, 1), (1, 1))
    total = functools.reduce(jnp.add, _patches(_pad(images, pads), (3, 3), (1, 1), grid))
    if count_include_pad:
        return total / 9
    ones = _pad(jnp.ones((1, *grid, 1), images.dtype), pads)
    return total / functools.reduce(jnp.add, _patches(ones, (3, 3), (1, 1), grid))


class Ops(NamedTuple):
    """Backend-specific convolution and pooling; equal up to rounding."""

    convolve: Callable[..., jax.Array]
    """Convolution, called as `nn.Conv` calls `lax.conv_general_dilated`."""
    max_pool: Callable[[jax.Array], jax.Array]
    """3x3 maximum of stride 2, VALID: [N, H, W, C] -> [N, (H - 1) // 2, (W - 1) // 2, C]."""
    average_pool: Callable[..., jax.Array]
    """3x3 average of stride 1, SAME; `count_include_pad` divides by 9 at the borders too (torchvision's v3)."""
    optimization_barrier: Callable[[jax.Array], jax.Array]
    """Identity that stops XLA from recomputing the producer in every consumer."""


PORTABLE = "portable"
"""Backend name of the operations that every backend and every converter supports."""


def select_ops(backend: str | None = None) -> Ops:
    """Operations for a backend, by JAX's name; None is the default backend. All but the CPU use XLA's own."""
    if (backend or jax.default_backend()) == "cpu":
        return Ops(cpu_convolve, cpu_max_pool, cpu_average_pool, lax.optimization_barrier)
    return Ops(
        lax.conv_general_dilated,
        functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="VALID"),
        functools.partial(nn.avg_pool, window_shape=(3, 3), strides=(1, 1), padding="SAME"),
        lambda array: array,
    )
