"""Final error of two networks at equal epochs, wall time and multiply-adds."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from inception_jax.compare.runs_to_groups import Curve, Group, common_seeds
from inception_jax.compare.statistics import Estimate, Interval, estimate, estimate_unpaired
from inception_jax.compare.time_to_error import COSTS, Cost

ERRORS = ("top1_error", "top5_error")


@dataclasses.dataclass(frozen=True)
class FinalError:
    """Final errors of two groups at equal cost."""

    cost: Cost
    error: str
    """One of `ERRORS`."""
    budget: Interval
    """Minimum and maximum cost over the pairs of seeds."""
    pure: float
    """Mean over the seeds."""
    residual: float
    difference: Estimate
    """Residual minus pure."""
    paired: bool
    """Whether the test is paired by seed; unpaired if the groups have no common seed."""


def final_errors(pure: Group, residual: Group) -> list[FinalError]:
    """Final errors at equal cost, by each cost; omitted where one run ended before the other's first evaluation.

    So is the top-5 error where a run has fewer than six classes.
    """
    curves = (*pure.curves, *residual.curves)
    known = [error for error in ERRORS if all(error in curve.averaged[-1] for curve in curves)]
    return [
        final_error
        for cost in COSTS
        for error in known
        if (final_error := _final_error(pure, residual, cost, error)) is not None
    ]


def at_equal_cost(curves: Sequence[Curve], cost: Cost) -> tuple[float, list[dict[str, Any]]] | None:
    """Minimum total cost over the runs, and each run's last evaluation within it; None if a run has none."""
    budget = min(cost.of(curve, curve.averaged[-1]) for curve in curves)
    within = [[m for m in curve.averaged if cost.of(curve, m) <= budget * (1 + 1e-9)] for curve in curves]
    return (budget, [records[-1] for records in within]) if all(within) else None


def _final_error(pure: Group, residual: Group, cost: Cost, error: str) -> FinalError | None:
    seeds = common_seeds(pure, residual)
    if not seeds:
        return _unpaired(pure, residual, cost, error)
    pairs = [at_equal_cost((pure.by_seed[seed], residual.by_seed[seed]), cost) for seed in seeds]
    found = [pair for pair in pairs if pair is not None]
    if not found:
        return None
    budgets = [budget for budget, _ in found]
    pures, residuals = ([records[i][error] for _, records in found] for i in (0, 1))
    difference = estimate([ours - theirs for ours, theirs in zip(residuals, pures, strict=True)])
    return FinalError(cost, error, (min(budgets), max(budgets)), _mean(pures), _mean(residuals), difference, True)


def _unpaired(pure: Group, residual: Group, cost: Cost, error: str) -> FinalError | None:
    found = at_equal_cost((*pure.curves, *residual.curves), cost)
    if found is None:
        return None
    budget, records = found
    errors = [record[error] for record in records]
    pures, residuals = errors[: len(pure.curves)], errors[len(pure.curves) :]
    difference = estimate_unpaired(residuals, pures)
    return FinalError(cost, error, (budget, budget), _mean(pures), _mean(residuals), difference, False)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
