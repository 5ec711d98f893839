"""What several seeds have in common: their median at each step, and from the least to the greatest."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """One step of a band."""

    x: float
    median: float
    low: float
    high: float
    seeds: int
    """How many have a value here."""


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
