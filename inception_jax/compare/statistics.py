"""Intervals of 95 % over seeds, and the band of several seeds' curves.

There are two kinds of intervals, each where it is sound. Medians and their ratios, where a seed may never have reached
the target, have the bootstrap's percentiles. It can only repeat what was seen: of 3 seeds it is hardly wider than from
the least to the greatest value and covers less than the 95 % it is named for. So what answers a question has Student's
t interval of a mean over seeds, which grows as seeds get few (by 4.3 standard errors to each side with 3 seeds, 2.8
with 5).
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
_SPREAD = 1e-9  # Of the largest value: differences under it are those of rounding.

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    interval: Interval | None
    """95 % interval by Student's t; None with one seed."""
    p: float | None
    """Probability of a mean as far from 0 if the true one were 0; None where the values do not vary."""
    seeds: int


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one or more values with its t interval; of differences within pairs this is the paired t test."""
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
    """Mean of ours minus mean of theirs by Welch's test, for values that do not belong together in pairs."""
    from scipy import stats

    mean = float(np.mean(ours) - np.mean(theirs))
    seeds = min(len(ours), len(theirs))
    if seeds == 1 or max(np.ptp(ours), np.ptp(theirs)) <= _SPREAD * np.max(np.abs([*ours, *theirs])):
        return Estimate(mean, None, None, seeds)
    with warnings.catch_warnings():
        # One of the two may not vary, which is no loss of precision here.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(ours, theirs, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return Estimate(mean, (float(low), float(high)), float(test.pvalue), seeds)


def bootstrap_medians(values: Sequence[float], *, stream: int = 0) -> np.ndarray:
    """Medians of `RESAMPLES` draws, with replacement, of as many values as there are; inf is a value like others.

    Two calls with as many values and the same stream draw the same places, so that seeds stay in pairs.
    """
    return np.median(np.asarray(values, float)[_draws(len(values), stream)], axis=1)


def interval(values: np.ndarray) -> Interval:
    """The 2.5th and the 97.5th percentile."""
    # Not np.quantile, which interpolates, and between two infinities there is nothing.
    ordered = np.sort(values)
    return float(ordered[_TAIL]), float(ordered[-_TAIL - 1])


def ratio_interval(above: np.ndarray, below: np.ndarray) -> Interval:
    """The interval of a quotient; where both are infinite it could be anything, and counts as 0 and as infinite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = above / below
    unknown = np.isnan(ratio)
    return interval(np.where(unknown, 0.0, ratio))[0], interval(np.where(unknown, np.inf, ratio))[1]


@functools.cache
def _draws(count: int, stream: int) -> np.ndarray:
    return np.random.default_rng([count, stream]).integers(count, size=(RESAMPLES, count))


class Point(NamedTuple):
    """One step of a band."""

    x: float
    median: float
    low: float
    high: float
    seeds: int
    """Number of seeds that have a value here."""


def band(lines: Sequence[Mapping[float, float]]) -> list[Point]:
    """{x: value} of each seed -> points by rising x, wherever at least half of the seeds have a value.

    Seeds that ended early drop out, and where fewer than half are left there is no median: the few that went on need
    not stand for the others.
    """
    points = []
    for x in sorted(set().union(*lines)):
        values = [line[x] for line in lines if x in line]
        if 2 * len(values) >= len(lines):
            points.append(Point(x, statistics.median(values), min(values), max(values), len(values)))
    return points
