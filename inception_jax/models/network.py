"""Base class of the networks: checks of the input, the forward pass through the stages, and the two heads."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from inception_jax.config import SMALLEST_SIDE
from inception_jax.errors import UserError
from inception_jax.models.blocks import KERNEL_INIT, ConvNorm, Layers
from inception_jax.models.ops import select_ops

Stage = tuple[str, Callable[..., nn.Module]]
"""A name, and a constructor of the module that takes `layers` and `name`."""


class Network(nn.Module):
    """An Inception network as a list of named stages, then average pool, dropout and classifier (Figures 9 and 15).

        for name, stage in self.stages():  # stem, blocks and reductions, in the order of the figures
            x = stage(x)
        x = dropout(mean over height and width of x)
        logits = classifier(x)

    Subclasses define `stages`. `__call__` adds rematerialisation, sown values and the auxiliary head, which reads the
    input of the stage `reduction_b`.

    Sown in the collection "intermediates": `zero_share`, the fraction of zeros before the average pool (section 3.3's
    sign of a dying network); `activation_rms/STAGE`, the root mean square of each stage's output; and `aux_logits`,
    with `aux_head` in training.

    In training, identical stages are traced once, so that `nn.intercept_methods` sees only the first of them.
    """

    num_classes: int = 1000
    width: float = 1.0
    depths: tuple[int, int, int] | None = None
    dropout_rate: float = 0.2
    aux_head: bool = False
    dtype: Any = None
    bn_momentum: float = 0.9997
    bn_axis_name: str | None = None
    count_include_pad: bool = False
    backend: str | None = None
    """Backend whose convolution and pooling are used (`ops.select_ops`); None is JAX's default backend."""
    remat: bool = False
    """Keep only the input of each stage in training and recompute the stage in the backward pass."""
    frozen: tuple[str, ...] = ()
    """Stages whose BN normalises by its running statistics, and does not update them, in training too."""

    def stages(self) -> Sequence[Stage]:
        """Stages from the image to the last block."""
        raise AssertionError(f"{type(self).__name__} defines no stages")

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Images [N, H, W, 3] in [-1, 1] -> logits [N, num_classes], or pooled features if `num_classes` is 0.

        Logits are float64 if the computation is, otherwise float32. Training needs the rng "dropout" and the mutable
        collection "batch_stats". Raises UserError for images under 75 pixels.
        """
        check_images(images.shape)
        layers = self.layers(train)
        frozen_layers = self.layers(False)
        x = images
        run = _run
        if train and not self.is_initializing():
            # Traces identical stages once, forward and backward. Lifting a function rather than the stage's class keeps
            # the parameters' names; a new lifted function per call shares no cache with other networks.
            run = nn.jit(nn.remat(_run) if self.remat else _run, rngs=False)
        for name, stage in self.stages():
            if name == "reduction_b" and self.aux_head and (train or self.is_initializing()):
                aux_logits = AuxiliaryHead(layers, self.num_classes, name="aux_head")(x)
                _sow(self, "aux_logits", aux_logits)
            x = run(stage(layers=frozen_layers if name in self.frozen else layers, name=name), x)
            # Free unless collected: XLA removes unused outputs.
            _sow(self, f"activation_rms/{name}", jnp.sqrt(jnp.mean(jnp.square(x.astype(_head_dtype(x))))))
        _sow(self, "zero_share", jnp.mean(x == 0))
        x = jnp.mean(x, axis=(1, 2), dtype=_head_dtype(x))
        if self.num_classes == 0:
            return x
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        return self.head(layers, x)

    def head(self, layers: Layers, features: jax.Array) -> jax.Array:
        """Pooled features [N, C] -> logits [N, num_classes], from a module named `classifier`."""
        return nn.Dense(self.num_classes, name="classifier")(features)

    def layers(self, train: bool) -> Layers:
        """Layer constructors with this network's settings."""
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=self.bn_momentum,
            # Typed, so that float64 images are normalised in float64 even by float32 statistics.
            epsilon=np.float64(1e-3),
            dtype=self.dtype,
            axis_name=self.bn_axis_name,
        )
        ops = select_ops(self.backend)
        return Layers(
            conv=functools.partial(
                nn.Conv, dtype=self.dtype, kernel_init=KERNEL_INIT, conv_general_dilated=ops.convolve
            ),
            norm=norm,
            max_pool=ops.max_pool,
            average_pool=functools.partial(ops.average_pool, count_include_pad=self.count_include_pad),
            optimization_barrier=ops.optimization_barrier,
            width=self.width,
        )


class AuxiliaryHead(nn.Module):
    """TF-Slim's auxiliary classifier on the 17x17 grid: average pool 5x5/3, 1x1 128, 5x5 768, dense.

    Differs from TF-Slim: the pooled map is resized to 5x5 where it is not (inputs far from 299 pixels), so that the
    parameters do not depend on the size of the input. At 299 the two agree.
    """

    layers: Layers
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, 17, 17, C] -> logits [N, num_classes]."""
        if min(x.shape[1:3]) >= 5:
            x = nn.avg_pool(x, window_shape=(5, 5), strides=(3, 3), padding="VALID")
        if x.shape[1:3] != (5, 5):
            x = jax.image.resize(x, (x.shape[0], 5, 5, x.shape[3]), "linear")
        x = ConvNorm(self.layers, 128, 1, name="conv_1")(x)
        x = ConvNorm(self.layers, 768, 5, 1, "VALID", name="conv_2")(x)
        x = x.reshape(x.shape[0], -1).astype(_head_dtype(x))
        return nn.Dense(self.num_classes, name="classifier")(x)


def numbered(name: str, count: int, stage: Callable[..., nn.Module]) -> list[Stage]:
    """`count` identical stages: name_1, name_2, ..."""
    return [(f"{name}_{i}", stage) for i in range(1, count + 1)]


def check_images(shape: Sequence[int]) -> None:
    """Raises UserError unless `shape` is [N, H, W, C] with H and W of at least 75."""
    if len(shape) != 4:
        raise UserError(f"images have shape {tuple(shape)}; it must be [N, H, W, 3].")
    if min(shape[1:3]) < SMALLEST_SIDE:
        raise UserError(
            f"images are {shape[1]}x{shape[2]} pixels; the networks need {SMALLEST_SIDE} or more a side: resize them."
        )


def _run(stage: nn.Module, x: jax.Array) -> jax.Array:
    return stage(x)


def _head_dtype(x: jax.Array) -> Any:
    # The pool and the classifier sum over many values: half precision would lose them.
    return jnp.promote_types(x.dtype, jnp.float32)


def _sow(network: Network, name: str, value: jax.Array) -> None:
    # The value itself, where linen's default would append it to a tuple.
    network.sow("intermediates", name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)
