"""Networks by name."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from inception_jax.errors import UserError
from inception_jax.models import inception_resnet
from inception_jax.models.inception_resnet import FacenetResNet, InceptionResNet
from inception_jax.models.inception_v3 import InceptionV3
from inception_jax.models.inception_v4 import InceptionV4
from inception_jax.models.network import Network


class Entry(NamedTuple):
    """A network's constructor, and which optional arguments of `create_model` apply to it."""

    factory: Callable[..., Network]
    aux_head: bool
    residual: bool


_NETWORKS = {
    "inception_v3": Entry(InceptionV3, aux_head=True, residual=False),
    "inception_v4": Entry(InceptionV4, aux_head=True, residual=False),
    "inception_resnet_v1": Entry(
        functools.partial(InceptionResNet, widths=inception_resnet.V1), aux_head=False, residual=True
    ),
    "inception_resnet_v1_facenet": Entry(
        functools.partial(FacenetResNet, widths=inception_resnet.V1_FACENET), aux_head=False, residual=True
    ),
    "inception_resnet_v2": Entry(
        functools.partial(InceptionResNet, widths=inception_resnet.V2), aux_head=True, residual=True
    ),
    "inception_resnet_v2_slim": Entry(
        functools.partial(InceptionResNet, widths=inception_resnet.V2_SLIM), aux_head=True, residual=True
    ),
}


def list_models() -> list[str]:
    """Names accepted by `create_model`."""
    return list(_NETWORKS)


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    dtype: Any = None,
    width: float = 1.0,
    depths: Sequence[int] | None = None,
    residual_scales: float | Sequence[float] = (0.17, 0.10, 0.20),
    dropout_rate: float = 0.2,
    aux_head: bool = False,
    bn_momentum: float = 0.9997,
    bn_axis_name: str | None = None,
    count_include_pad: bool = False,
    remat: bool = False,
) -> Network:
    """Creates a network as a linen module: `model.init(key, images)`, `model.apply(variables, images, train=False)`.

    Args:
      name: one of `list_models()`.
      num_classes: number of classes; 0 returns the pooled features [N, C] instead of logits. For
        inception_resnet_v1_facenet the size of the embedding (facenet: 512).
      dtype: dtype of the convolutions ("bfloat16", jnp.float32, ...); None infers it from images and parameters.
      width: factor on the features of every convolution.
      depths: number of blocks at the 35x35, 17x17 and 8x8 grids; None is the network's own.
      residual_scales: factor on the residuals before the addition (section 3.3), one number or one per grid (35, 17,
        8); 1.0 is unscaled. Ignored by networks without residuals.
      dropout_rate: fraction of the pooled features dropped in training; the paper keeps 0.8.
      aux_head: add TF-Slim's auxiliary classifier; in training its logits are sown as "aux_logits" in "intermediates".
      bn_momentum: decay of the running BN statistics.
      bn_axis_name: mapped axis over which BN statistics are averaged; None keeps them per device.
      count_include_pad: whether 3x3 average pools divide by 9 at the borders too (torchvision's and timm's v3).
      remat: in training, keep only the input of each stage and recompute the stage in the backward pass.

    Raises:
      UserError: the name is unknown, or the network does not support an option.
    """
    if name not in _NETWORKS:
        raise UserError(f"there is no network {name!r}; there are {', '.join(_NETWORKS)}.")
    entry = _NETWORKS[name]
    if aux_head and (not entry.aux_head or num_classes == 0):
        raise UserError(f"{name} with {num_classes} classes has no auxiliary head; set aux_head to False.")
    if depths is not None and (len(depths) != 3 or min(depths) < 1):
        raise UserError(f"depths is {tuple(depths)}; it must be three numbers of 1 or more, one per grid.")
    options: dict[str, Any] = {}
    if entry.residual:
        options["residual_scales"] = _per_grid(residual_scales)
    return entry.factory(
        num_classes=num_classes,
        dtype=None if dtype is None else jnp.dtype(dtype),
        width=width,
        depths=None if depths is None else tuple(depths),
        dropout_rate=dropout_rate,
        aux_head=aux_head,
        bn_momentum=bn_momentum,
        bn_axis_name=bn_axis_name,
        count_include_pad=count_include_pad,
        remat=remat,
        **options,
    )


def describe(model: Network) -> dict[str, Any]:
    """Arguments of `create_model` for this network, as JSON values: {"name": ..., "width": ...}."""
    (name,) = (name for name, entry in _NETWORKS.items() if _identity(entry.factory()) == _identity(model))
    # `remat` belongs to training, not to the network.
    options = [o for o in inspect.signature(create_model).parameters if o not in ("name", "dtype", "remat")]
    fields = {option: getattr(model, option) for option in options if hasattr(model, option)}
    return {"name": name, **fields, "dtype": None if model.dtype is None else jnp.dtype(model.dtype).name}


def _identity(model: Network) -> tuple[type, Any]:
    return type(model), getattr(model, "widths", None)


def _per_grid(scales: float | Sequence[float]) -> tuple[float, ...]:
    values = tuple(scales) if isinstance(scales, Sequence) else (scales,)
    if len(values) not in (1, 3):
        raise UserError(f"residual_scales has {len(values)} numbers; it takes one number, or one per grid (35, 17, 8).")
    return values * 3 if len(values) == 1 else values
