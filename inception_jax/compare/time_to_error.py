"""Time to target: epochs, wall time and multiply-adds until a run reaches an error.

The paper claims that residual networks train much faster than pure ones of the same cost (section 4).
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inception_jax.compare import tables
from inception_jax.compare.runs_to_groups import Curve, Group
from inception_jax.compare.statistics import Interval, bootstrap_medians, interval, ratio_interval

TARGETS = (90, 80, 70, 60, 50, 40, 30, 20, 15, 10, 7, 5, 3, 2, 1)
"""Target top-1 errors, in percent."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Measure of the cost of training."""

    name: str
    of: Callable[[Curve, Mapping[str, Any]], float]
    """Cost of a run up to an evaluation."""
    format: Callable[[float], str]


def multiply_adds(curve: Curve, record: Mapping[str, Any]) -> float:
    """Forward multiply-adds of the training images seen up to an evaluation."""
    return record["step"] * curve.run.experiment.train.batch_size * curve.run.info.multiply_adds


EPOCHS = Cost("epochs", lambda _, record: record["epoch"], tables.number)
COSTS = (
    EPOCHS,
    Cost("wall time", lambda _, record: record["seconds"], tables.duration),
    Cost("multiply-adds", multiply_adds, tables.quantity),
)


@dataclasses.dataclass(frozen=True)
class CostToTarget:
    """Cost of reaching a target error."""

    value: float
    """Right-censored at the total cost if the target was not reached."""
    reached: bool


@dataclasses.dataclass(frozen=True)
class CostPair:
    """Costs of a pair of networks to one target error."""

    pure: CostToTarget
    residual: CostToTarget

    @property
    def ratio(self) -> float | None:
        """Pure / residual, a bound if only one of the two reached the target; None if neither did."""
        known = (self.pure.reached or self.residual.reached) and self.residual.value > 0
        return self.pure.value / self.residual.value if known else None

    @property
    def speed_up(self) -> str:
        """The ratio as text; '> x' or '< x' if only the residual or only the pure network reached the target."""
        bound = "" if self.pure.reached and self.residual.reached else "> " if self.residual.reached else "< "
        return tables.MISSING if self.ratio is None else bound + tables.factor(self.ratio)

    @property
    def leader(self) -> int:
        """1 if the residual network reached the target at lower cost, -1 if the pure one did, else 0."""
        if self.pure.reached and self.residual.reached:
            return (self.residual.value < self.pure.value) - (self.pure.value < self.residual.value)
        # A run that never reached the target is behind only if it had spent as much as the other needed.
        if self.residual.reached:
            return int(self.residual.value <= self.pure.value)
        return -int(self.pure.reached and self.pure.value <= self.residual.value)

    @property
    def log_ratio(self) -> float:
        """Natural logarithm of the ratio, 0 without a leader; censoring biases it towards 0."""
        return math.log(self.ratio) if self.leader and self.ratio else 0.0


@dataclasses.dataclass(frozen=True)
class TargetComparison:
    """Costs of two groups to one target error: medians over seeds, with intervals if both have several seeds."""

    target: int
    cost: Cost
    costs: CostPair
    pure: Interval | None
    residual: Interval | None
    speed_up: Interval | None


def informative_targets(pures: Sequence[Curve], residuals: Sequence[Curve]) -> list[int]:
    """`TARGETS` that most runs of one side reach, and that some run does not meet at its first evaluation."""
    found = []
    for target in TARGETS:
        reached = any(
            _median([cost_to_target(curve, target, EPOCHS) for curve in side]).reached for side in (pures, residuals)
        )
        firsts = [_after_training_began(curve)[:1] for curve in (*pures, *residuals)]
        if reached and not all(first and _reaches(first[0]["top1_error"], target) for first in firsts):
            found.append(target)
    return found


def cost_to_target(curve: Curve, target: int, cost: Cost) -> CostToTarget:
    """Cost of a run up to its first evaluation with a top-1 error of at most `target` percent."""
    first = next((record for record in _after_training_began(curve) if _reaches(record["top1_error"], target)), None)
    return CostToTarget(cost.of(curve, first or curve.averaged[-1]), first is not None)


def compare_at_target(pure: Group, residual: Group, target: int, cost: Cost) -> TargetComparison:
    """Compare the costs of two groups to a target error; groups with the same seeds are resampled in pairs."""
    pures, residuals = ([cost_to_target(curve, target, cost) for curve in group.curves] for group in (pure, residual))
    costs = CostPair(_median(pures), _median(residuals))
    if min(len(pures), len(residuals)) == 1:
        return TargetComparison(target, cost, costs, None, None, None)
    stream = 0 if list(pure.by_seed) == list(residual.by_seed) else 1
    ours, theirs = (
        bootstrap_medians(_censored_at_infinity(pures)),
        bootstrap_medians(_censored_at_infinity(residuals), stream=stream),
    )
    intervals = interval(ours), interval(theirs), ratio_interval(ours, theirs)
    return TargetComparison(target, cost, costs, *map(_if_informative, intervals))


def mean_log_ratio(pure: Curve, residual: Curve, cost: Cost) -> float:
    """Mean log speed-up over the informative targets of two runs; 0 without any."""
    ratios = [
        CostPair(cost_to_target(pure, target, cost), cost_to_target(residual, target, cost)).log_ratio
        for target in informative_targets([pure], [residual])
    ]
    return statistics.fmean(ratios) if ratios else 0.0


def _if_informative(found: Interval) -> Interval | None:
    # If no resample reached the target the interval is infinite or 0, and the bound on the median tells more.
    return None if math.isinf(found[0]) or found[1] == 0 else found


def _median(runs: Sequence[CostToTarget]) -> CostToTarget:
    """Median cost if more than half reached the target; else the median total cost, right-censored."""
    median = statistics.median(_censored_at_infinity(runs))
    if math.isfinite(median):
        return CostToTarget(median, True)
    return CostToTarget(statistics.median(run.value for run in runs), False)


def _censored_at_infinity(runs: Sequence[CostToTarget]) -> list[float]:
    return [run.value if run.reached else math.inf for run in runs]


def _after_training_began(curve: Curve) -> list[dict[str, Any]]:
    # Without step 0, where an untrained network can be below 90 % by chance.
    return [record for record in curve.averaged if record["step"] > 0]


def _reaches(error: float, target: int) -> bool:
    return error <= target / 100 + 1e-9  # Errors are ratios of counts, rounded.
