"""Summary of a network: a row per stage with its output's shape, parameters and multiply-adds."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import jax

from inception_jax.models.calls import layer_calls
from inception_jax.models.initialize import variable_shapes
from inception_jax.models.network import Network


@dataclasses.dataclass
class StageSummary:
    """Summary of a stage, or of the classifier."""

    name: str
    shape: tuple[int, ...]
    """Output shape for one image: (height, width, features)."""
    parameters: int = 0
    multiply_adds: int = 0
    """Multiply-adds of convolutions and dense layers for one image (BN, ReLU and pooling are not counted)."""


def summarize(model: Network, image_size: int | tuple[int, int] = 299) -> list[StageSummary]:
    """Summarises the stages in order, then the classifier; nothing is computed or compiled.

    The auxiliary head, used in training only, has no row. Raises UserError for images under 75 pixels.
    """
    params = variable_shapes(model, image_size)["params"]
    rows: dict[str, StageSummary] = {}
    for call in layer_calls(model, image_size):
        row = rows.setdefault(call.path[0], StageSummary(call.path[0], ()))
        row.multiply_adds += call.multiply_adds
        if len(call.path) == 1:
            row.shape = call.output.shape[1:]
    for name, row in rows.items():
        row.parameters = count_parameters(params.get(name, {}))
    return [row for row in rows.values() if row.name != "dropout"]


def count_parameters(params: Any) -> int:
    """Number of elements in a tree of arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def table(rows: Sequence[StageSummary]) -> str:
    """Text table of the rows, with a total."""
    lines = [f"{'stage':<18}{'output':>16}{'parameters':>14}{'multiply-adds':>17}"]
    for row in rows:
        shape = "x".join(map(str, row.shape))
        lines.append(f"{row.name:<18}{shape:>16}{row.parameters:>14,}{row.multiply_adds:>17,}")
    parameters, multiply_adds = _totals(rows)
    return "\n".join([*lines, f"{'total':<18}{'':>16}{parameters:>14,}{multiply_adds:>17,}"])


def to_json(model: str, image_size: int, rows: Sequence[StageSummary], **extra: Any) -> str:
    """JSON object of the rows, their totals and `extra`."""
    parameters, multiply_adds = _totals(rows)
    stages = [dataclasses.asdict(row) for row in rows]
    totals = {"model": model, "image_size": image_size, "parameters": parameters, "multiply_adds": multiply_adds}
    return json.dumps({**totals, "stages": stages, **extra})


def _totals(rows: Sequence[StageSummary]) -> tuple[int, int]:
    return sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
