"""Calls of a network's layers on one image, with their shapes; traced, never computed."""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from inception_jax.models.initialize import variable_shapes
from inception_jax.models.network import Network


class LayerCall(NamedTuple):
    """Call of a stage, or of a layer in it."""

    path: tuple[str, ...]
    """Module names from the stage down to the layer, as in the parameters."""
    kind: type[nn.Module]
    input: jax.ShapeDtypeStruct
    input_id: int
    """Identifier of the input array: calls with the same input have the same number."""
    output: jax.ShapeDtypeStruct
    kernel: tuple[int, ...]
    """Kernel shape of a convolution or dense layer; () for other modules."""

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of a convolution or dense layer; 0 for other modules."""
        # Each weight is used once at each position of the output.
        return math.prod(self.output.shape[1:-1]) * math.prod(self.kernel) if self.kernel else 0


def layer_calls(model: Network, image_size: int | tuple[int, int] = 299, *, train: bool = False) -> list[LayerCall]:
    """Lists the calls for one image of `image_size` pixels (side, or height and width), in the order of their return.

    The auxiliary head is called in training only. Raises UserError for images under 75 pixels.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    calls: list[LayerCall] = []
    read: dict[int, tuple[int, jax.Array]] = {}  # Keeps the arrays alive: an id is unique only then.

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out, module = call(*args, **kwargs), context.module
        if module.path and context.method_name == "__call__":
            x = args[0]
            number, _ = read.setdefault(id(x), (len(read), x))
            kernel = module.variables["params"]["kernel"].shape if isinstance(module, nn.Conv | nn.Dense) else ()
            calls.append(LayerCall(module.path, type(module), _abstract(x), number, _abstract(out), kernel))
        return out

    if train:
        # Not `apply`, which in training calls only the first of identical stages.
        function: Any = functools.partial(model.init, train=True)
        given: Any = {name: jax.random.key(0) for name in ("params", "dropout")}
    else:
        function, given = model.apply, variable_shapes(model, image_size)
    with nn.intercept_methods(record):
        jax.eval_shape(function, given, images)
    return calls


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
