"""Summary of a network: a row per stage with its output's shape, parameters and multiply-adds."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from inception_jax.models.initialize import variable_shapes
from inception_jax.models.network import Network


@dataclasses.dataclass
class StageSummary:
    """One stage, or one of the heads."""

    name: str
    shape: tuple[int, ...]
    """Shape of the output for one image: (height, width, features)."""
    parameters: int = 0
    multiply_adds: int = 0
    """Multiply-adds of convolutions and dense layers for one image (BN, ReLU and pooling are not counted)."""


def summarize(model: Network, image_size: int | tuple[int, int] = 299) -> list[StageSummary]:
    """The stages in order, then the classifier; nothing is computed or compiled.

    The auxiliary head has no row: it takes part in training only. Raises UserError for images under 75 pixels.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    variables = variable_shapes(model, image_size)
    rows: dict[str, StageSummary] = {}

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        path, out = context.module.path, call(*args, **kwargs)
        if path and context.method_name == "__call__":
            row = rows.setdefault(path[0], StageSummary(path[0], ()))
            row.multiply_adds += _multiply_adds(context.module, out)
            if len(path) == 1:
                row.shape = out.shape[1:]
        return out

    with nn.intercept_methods(record):
        jax.eval_shape(model.apply, variables, images)
    for name, row in rows.items():
        row.parameters = count_parameters(variables["params"].get(name, {}))
    return [row for row in rows.values() if row.name != "dropout"]


def count_parameters(params: Any) -> int:
    """The number of elements in a tree of arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _multiply_adds(module: nn.Module, out: jax.Array) -> int:
    if not isinstance(module, nn.Conv | nn.Dense):
        return 0
    # Every number of the kernel is used once at every position of the output.
    return math.prod(out.shape[1:-1]) * math.prod(module.variables["params"]["kernel"].shape)


def table(rows: Sequence[StageSummary]) -> str:
    """The rows as text, with a total."""
    lines = [f"{'stage':<18}{'output':>16}{'parameters':>14}{'multiply-adds':>17}"]
    for row in rows:
        shape = "x".join(map(str, row.shape))
        lines.append(f"{row.name:<18}{shape:>16}{row.parameters:>14,}{row.multiply_adds:>17,}")
    parameters, multiply_adds = _totals(rows)
    return "\n".join([*lines, f"{'total':<18}{'':>16}{parameters:>14,}{multiply_adds:>17,}"])


def to_json(model: str, image_size: int, rows: Sequence[StageSummary], **extra: Any) -> str:
    """The rows as one JSON object with totals, and whatever else is given."""
    parameters, multiply_adds = _totals(rows)
    stages = [dataclasses.asdict(row) for row in rows]
    totals = {"model": model, "image_size": image_size, "parameters": parameters, "multiply_adds": multiply_adds}
    return json.dumps({**totals, "stages": stages, **extra})


def _totals(rows: Sequence[StageSummary]) -> tuple[int, int]:
    return sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
