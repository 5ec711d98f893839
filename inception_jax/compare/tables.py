"""Number formats and Markdown tables."""

import math
from collections.abc import Callable, Sequence

from inception_jax.compare.statistics import Estimate, Interval

MISSING = "—"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table of these cells."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *escaped))


def percent(error: float | None) -> str:
    """0.1234 -> '12.34'."""
    return MISSING if error is None else f"{100 * error:.2f}"


def points(difference: float) -> str:
    """Signed difference of errors in percentage points: -0.0123 -> '-1.23'."""
    return f"{100 * difference:+.2f}"


def quantity(value: float) -> str:
    """Three significant digits with an SI prefix: 55843161 -> '55.8 M'."""
    units = ["", " k", " M", " G", " T", " P", " E"]
    value = float(f"{value:.3g}")  # Rounded first, or 999.9 k would become 1e+03 k.
    power = max((p for p in range(len(units)) if value >= 1000**p), default=0)
    return f"{value / 1000**power:.3g}{units[power]}"


def duration(seconds: float) -> str:
    """150 -> '2.5 min'."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def number(value: float) -> str:
    """At most four significant digits."""
    return f"{value:.4g}"


def factor(value: float) -> str:
    """Ratio with two decimals: '1.50'."""
    return f"{value:.2f}"


def log_factor(found: Estimate | None) -> str:
    """Ratio and interval from an estimated log ratio: '1.50 [1.20, 1.88]'."""
    if found is None:
        return MISSING
    return factor(math.exp(found.mean)) + bracketed(found.interval, lambda value: factor(math.exp(value)))


def bracketed(interval: Interval | None, format: Callable[[float], str]) -> str:
    """' [low, high]', or an empty string without an interval."""
    if interval is None:
        return ""
    low, high = ("∞" if math.isinf(end) else format(end) for end in interval)
    return f" [{low}, {high}]"


def p_value(p: float | None) -> str:
    """P value with three decimals: '0.012', '< 0.001'."""
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def pluralize(count: int, noun: str) -> str:
    """Count and noun: 3, 'seed' -> '3 seeds'."""
    return f"{count} {noun}{'s' * (count != 1)}"
