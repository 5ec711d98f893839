"""95 % intervals over seeds, and bands over several seeds' curves.

Medians of right-censored costs and their ratios have bootstrap percentile intervals. The bootstrap only repeats
observed values: with 3 seeds its interval is hardly wider than from minimum to maximum and covers less than 95 %.
Claims are therefore decided by Student's t interval of a mean over seeds, which widens with few seeds (4.3 standard
errors to each side with 3 seeds, 2.8 with 5).
"""

import dataclasses
import functools
import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
_TAIL = RESAMPLES // 40  # 2.5 % at each end.
_SPREAD = 1e-9  # Differences below this fraction of the largest value are rounding errors.

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Mean over seeds with its uncertainty."""

    mean: float
    interval: Interval | None
    """95 % Student's t interval; None with one seed."""
    p: float | None
    """Two-sided p value for a true mean of 0; None if the values do not vary."""
    seeds: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of one or more values with its t interval; for differences within pairs, the paired t test."""
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) == 1:
        return Estimate(mean, None, None, 1)
    if np.ptp(values) <= _SPREAD * np.max(np.abs(values)):
        return Estimate(mean, (mean, mean), None, len(values))
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(0.95)
    return Estimate(mean, (float(low), float(high)), float(test.pvalue), len(values))


def estimate_unpaired(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Difference of the means, ours minus theirs, by Welch's t test for unpaired values."""
    from scipy import stats

    mean = float(np.mean(ours) - np.mean(theirs))
    seeds = min(len(ours), len(theirs))
    if seeds == 1 or max(np.ptp(ours), np.ptp(theirs)) <= _SPREAD * np.max(np.abs([*ours, *theirs])):
        return Estimate(mean, None, None, seeds)
    with warnings.catch_warnings():
        # SciPy warns of lost precision if one of the two does not vary; here it does not matter.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(ours, theirs, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return Estimate(mean, (float(low), float(high)), float(test.pvalue), seeds)


def bootstrap_medians(values: Sequence[float], *, stream: int = 0) -> np.ndarray:
    """Medians of `RESAMPLES` bootstrap resamples; values may be infinite.

    Calls with equally many values and the same stream draw the same positions, so that seeds stay paired.
    """
    return np.median(np.asarray(values, float)[_draws(len(values), stream)], axis=1)


def interval(values: np.ndarray) -> Interval:
    """The 2.5th and 97.5th percentiles."""
    # np.quantile interpolates, which gives NaN between infinities.
    ordered = np.sort(values)
    return float(ordered[_TAIL]), float(ordered[-_TAIL - 1])


def ratio_interval(above: np.ndarray, below: np.ndarray) -> Interval:
    """Interval of a ratio; infinity / infinity is unknown and counts as 0 at the low end, infinity at the high end."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = above / below
    unknown = np.isnan(ratio)
    return interval(np.where(unknown, 0.0, ratio))[0], interval(np.where(unknown, np.inf, ratio))[1]


@functools.cache
def _draws(count: int, stream: int) -> np.ndarray:
    return np.random.default_rng([count, stream]).integers(count, size=(RESAMPLES, count))


class Point(NamedTuple):
    """Band at one position of the x axis."""

    x: float
    median: float
    low: float
    high: float
    seeds: int
    """Number of seeds that have a value here."""


def band(lines: Sequence[Mapping[float, float]]) -> list[Point]:
    """{x: value} of each seed -> points by increasing x, wherever at least half of the seeds have a value.

    Where fewer than half are left there is no median: the longer runs need not represent the others.
    """
    points = []
    for x in sorted(set().union(*lines)):
        values = [line[x] for line in lines if x in line]
        if 2 * len(values) >= len(lines):
            points.append(Point(x, statistics.median(values), min(values), max(values), len(values)))
    return points
