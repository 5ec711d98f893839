"""Convolution and pooling for the CPU against XLA's own, in float64: equal up to rounding."""

import jax
import numpy as np
import pytest

from inception_jax.models import create_model
from inception_jax.models.initialize import initial_variables
from inception_jax.models.ops import PORTABLE, select_ops

OURS, THEIRS = select_ops("cpu"), select_ops(PORTABLE)
# Every kind of convolution in the networks, on maps whose last row and column the stride reaches or misses.
CONVOLUTIONS = [
    # Size of the images, kernel, features in and out, stride, padding.
    ((9, 9), (1, 1), (3, 4), 1, "SAME"),
    ((9, 8), (3, 3), (3, 4), 1, "SAME"),
    ((9, 8), (3, 3), (3, 4), 1, "VALID"),
    ((9, 9), (3, 3), (3, 4), 2, "VALID"),
    ((8, 11), (3, 3), (3, 4), 2, "VALID"),
    ((9, 8), (1, 7), (3, 4), 1, "SAME"),
    # Kernels large enough for their gradients to be matrix products too.
    ((5, 4), (7, 1), (100, 96), 1, "SAME"),
    ((5, 4), (3, 3), (90, 85), 1, "VALID"),
    ((5, 5), (5, 5), (3, 4), 1, "VALID"),
    # Grids large enough, and features few enough, for the gradient to be transposed first.
    ((17, 16), (1, 1), (6, 4), 1, "SAME"),
    ((40, 34), (3, 3), (6, 4), 2, "VALID"),
    # Strided with padding, which a kernel position may miss: unused by the networks, allowed by `nn.Conv`.
    ((9, 8), (3, 3), (3, 4), 2, "SAME"),
    ((3, 4), (5, 3), (3, 4), 2, "SAME"),
]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def values(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def with_gradients(function, *arguments):
    """The value and the gradients of a weighted sum of it."""
    value, back = jax.vjp(function, *arguments)
    return value, *back(values(*value.shape))


@pytest.mark.parametrize(("size", "kernel", "features", "stride", "padding"), CONVOLUTIONS)
def test_convolutions_and_their_gradients(size, kernel, features, stride, padding):
    images, weights = values(2, *size, features[0]), values(*kernel, *features)
    ours, theirs = (
        with_gradients(
            lambda x, w, ops=ops: ops.convolve(
                x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            ),
            images,
            weights,
        )
        for ops in (OURS, THEIRS)
    )
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (3, 9), (4, 5)])
def test_max_pools_and_the_positions_of_their_gradients_are_equal(size):
    # Few values, so that most windows have several maxima: the gradient goes to the first one.
    images = np.random.default_rng(0).integers(0, 3, (2, *size, 3)).astype(np.float64)
    ours, theirs = (with_gradients(ops.max_pool, images) for ops in (OURS, THEIRS))
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-15, atol=1e-15)
    assert np.count_nonzero(ours[1]) == np.count_nonzero(theirs[1])


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_average_pools_and_their_gradients(count_include_pad):
    ours, theirs = (
        with_gradients(lambda x, ops=ops: ops.average_pool(x, count_include_pad=count_include_pad), values(2, 4, 5, 3))
        for ops in (OURS, THEIRS)
    )
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", ["inception_v4", "inception_resnet_v1"])
def test_gradients_of_a_network_are_those_of_the_portable_backend(name):
    network = create_model(name, num_classes=5, width=0.1, depths=(1, 1, 1), dropout_rate=0.0)
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), initial_variables(network, 0, 75))
    images = values(2, 75, 75, 3)

    def gradients(backend):
        def loss(params):
            logits, _ = network.clone(backend=backend).apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return (logits**2).sum()

        traced = jax.jit(jax.grad(loss)).trace(variables["params"])
        return str(traced.jaxpr), traced.lower().compile()(variables["params"])

    (default_program, default), (cpu_program, cpu), (portable_program, portable) = map(
        gradients, (None, "cpu", PORTABLE)
    )
    assert default_program == cpu_program
    # XLA's own max pool, which only the portable backend uses.
    assert "select_and_scatter_add" in portable_program and "select_and_scatter_add" not in cpu_program
    jax.tree.map(np.testing.assert_array_equal, default, cpu)
    atol = 1e-11 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(portable))
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=atol), cpu, portable)
