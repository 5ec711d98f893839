"""Figures 21-26 of arXiv 1602.07261 on one page, and figures of training metrics over steps.

A metric name that ends in "/", such as gradient_norm/, stands for all metrics under it, e.g. one for each stage of a
network. Each group then has a panel with a line for each of them, from dark to light in the order of logging.
"""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from inception_jax.compare import style
from inception_jax.compare.runs_to_groups import PAIRS, Curve, Group, best_of_each_network, display_name, pair_of
from inception_jax.compare.statistics import Point, band
from inception_jax.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_COLUMNS = (("top1_error", "top-1 error"), ("top5_error", "top-5 error"))
_FIGURES = ((21, 22), (23, 24))  # Numbers of the two columns for each pair in PAIRS.
_FIGURES_OF_ALL = (26, 25)
_ROW_SIZE = (13, 3.7)  # Width and height in inches.


class Row(NamedTuple):
    """Row of two panels: a title for each, and the groups that both show."""

    titles: tuple[str, str]
    groups: list[Group]


class _Axis(NamedTuple):
    """Limits and scale of a column's y axis, in percent."""

    bottom: float
    top: float
    log: bool
    zero: bool
    """Whether any error is zero."""


def draw_errors(groups: Sequence[Group]) -> dict[str, bytes]:
    """Groups -> {"png": bytes, "svg": bytes}: the rows of `figure_rows`, top-1 error on the left, top-5 on the right.

    The right column is left out where all runs have fewer than six classes.

    Several seeds are drawn as their median with a band from minimum to maximum; a single run also shows the raw
    parameters, as a thin line. A logarithmic axis ends at half an image, where errors of zero are drawn. The output is
    deterministic.
    """
    rows = figure_rows(groups)
    columns = [error for error, _ in _COLUMNS if _errors(groups, error)]
    size = (_ROW_SIZE[0] * len(columns) / len(_COLUMNS), _ROW_SIZE[1] * len(rows))
    # A shared y axis per column makes the pairs comparable, as in Figures 25 and 26.
    return style.render((len(rows), len(columns)), size, functools.partial(_fill, rows, groups, columns), sharey="col")


def figure_rows(groups: Sequence[Group]) -> list[Row]:
    """Rows of the page: the paper's pairs, then its four networks at their best-of-sweep settings, then any others."""
    order = [*PAIRS, *dict.fromkeys(pair_of(g.model) for g in groups if pair_of(g.model) not in PAIRS)]
    members = {pair: [group for group in groups if pair_of(group.model) == pair] for pair in order}
    rows = [_pair_row(pair, members[pair]) for pair in order if members[pair]]
    if all({group.residual for group in members[pair]} == {False, True} for pair in PAIRS):
        best = [group for group in best_of_each_network(groups) if pair_of(group.model) in PAIRS]
        several = len(best) < sum(len(members[pair]) for pair in PAIRS)
        name = "all four" + ", best of sweep" * several
        titles = [f"Figure {n}: {name}, {column}" for n, (_, column) in zip(_FIGURES_OF_ALL, _COLUMNS, strict=True)]
        rows.insert(len(PAIRS), Row((titles[0], titles[1]), best))
    return rows


def _pair_row(pair: tuple[str, ...], groups: list[Group]) -> Row:
    # Without variants, which the legend names: the title must fit above its panel.
    names = " and ".join(dict.fromkeys(display_name(group.model).split(" (")[0] for group in groups))
    complete = pair in PAIRS and {group.residual for group in groups} == {False, True}
    figures = [f"Figure {n}: " for n in _FIGURES[PAIRS.index(pair)]] if complete else ["", ""]  # type: ignore[arg-type]
    titles = [f"{figure}{names}, {column}" for figure, (_, column) in zip(figures, _COLUMNS, strict=True)]
    return Row((titles[0], titles[1]), groups)


def _fill(rows: Sequence[Row], groups: Sequence[Group], columns: Sequence[str], panels: Any) -> None:
    axes = {error: _axis(groups, error) for error in columns}
    several = any(len(group.curves) > 1 for group in groups)
    unfinished = any(not curve.run.finished for group in groups for curve in group.curves)
    raw = any(len(group.curves) == 1 and group.curves[0].raw for group in groups)
    styles = _styles(rows)
    for number, row in enumerate(rows):
        for column, error in enumerate(columns):
            panel = panels[number, column]
            for group in row.groups:
                _draw_group(panel, group, error, styles[number][group.label], axes[error].bottom)
            style.set_axes(panel, row.titles[column], "epoch", "validation error (%)")
            if axes[error].log:
                style.set_log(panel, axes[error].bottom if axes[error].zero else None)
            panel.set_ylim(axes[error].bottom, axes[error].top)
        first = number == 0
        style.set_legend(panels[number, -1], raw=first and raw, band=first and several, unfinished=first and unfinished)


def _styles(rows: Sequence[Row]) -> list[dict[str, dict[str, Any]]]:
    """Line styles of each row's groups, keyed by their labels.

    The best group of each network has the same style in every row; the other groups take the remaining ones.
    """
    best = best_of_each_network([group for row in rows for group in row.groups if pair_of(group.model) in PAIRS])
    kinds = [[group.label for group in best if group.residual is kind] for kind in (False, True)]
    styles = []
    for row in rows:
        taken: Mapping[str, int] = {label: n for kind in kinds for n, label in enumerate(kind)}
        numbers = {group.label: taken[group.label] for group in row.groups if group.label in taken}
        for group in row.groups:
            used = {numbers[g.label] for g in row.groups if g.residual is group.residual and g.label in numbers}
            numbers.setdefault(group.label, next(n for n in range(len(used) + 1) if n not in used))
        styles.append({group.label: style.line_style(numbers[group.label], group.residual) for group in row.groups})
    return styles


def _draw_group(panel: "Axes", group: Group, error: str, line_style: Mapping[str, Any], bottom: float) -> None:
    averaged = [
        {m["epoch"]: max(100 * m[error], bottom) for m in curve.averaged if error in m} for curve in group.curves
    ]
    style.plot_band(panel, band(averaged), line_style, group.title)
    if len(group.curves) == 1:
        raw = [(m["epoch"], max(100 * m[error], bottom)) for m in group.curves[0].raw if error in m]
        thin = {
            "color": line_style["color"],
            "linestyle": line_style["linestyle"],
            "linewidth": 0.8,
            "alpha": 0.4,
            "zorder": 2,
        }
        if raw:
            panel.plot(*zip(*raw, strict=True), clip_on=False, **thin)
    for curve, line in zip(group.curves, averaged, strict=True):
        if not curve.run.finished:
            style.mark_unfinished(panel, line)


def _axis(groups: Sequence[Group], error: str) -> _Axis:
    """Y axis of a column; logarithmic for both columns if one of them needs it."""
    curves = [curve for group in groups for curve in group.curves]
    errors = _errors(groups, error)
    image = 100 / max(curve.run.info.validation_images for curve in curves)  # The minimum error above zero.
    lowest, highest = min(errors), max(errors)
    if not any(_errors_span_decades(groups, name, image) for name, _ in _COLUMNS):
        return _Axis(0.0, min(100.0, 1.06 * max(highest, image)), False, lowest == 0)
    bottom = 0.8 * lowest if lowest else image / 2
    return _Axis(bottom, min(100.0, 1.3 * max(highest, image)), True, lowest == 0)


def _errors(groups: Sequence[Group], error: str) -> list[float]:
    """All errors that are drawn, in percent."""
    curves = [curve for group in groups for curve in group.curves]
    raw = [m for group in groups if len(group.curves) == 1 for m in group.curves[0].raw]
    return [100 * m[error] for m in [*(m for curve in curves for m in curve.averaged), *raw] if error in m]


def _errors_span_decades(groups: Sequence[Group], error: str, image: float) -> bool:
    # Without step 0, which is at chance level, and without the raw parameters, which fluctuate.
    curves = [curve for group in groups for curve in group.curves]
    errors = [100 * m[error] for curve in curves for m in curve.averaged if m["step"] > 0 and error in m]
    return bool(errors) and max(errors) > style.LOG_RATIO * max(min(errors), image)


_NOT_METRICS = ("step", "epoch", "seconds")
_PANEL_SIZE = (11, 4.0)  # Width and height in inches, including the legend.


def metric_names(groups: Sequence[Group]) -> list[str]:
    """Names of the training metrics, in the order in which the runs log them."""
    lines = [m for group in groups for c in group.curves for m in c.run.metrics if m["split"] == "train"]
    names = {name: None for line in lines for name, value in line.items() if isinstance(value, int | float)}
    return [name for name in names if name not in _NOT_METRICS]


def file_name(name: str) -> str:
    """File name of a metric without its suffix: gradient_norm/block_a_1 -> 'gradient_norm-block_a_1'."""
    return re.sub(r"[^\w.-]+", "-", f"{name}all" if name.endswith("/") else name)


def draw_metric(groups: Sequence[Group], name: str) -> dict[str, bytes]:
    """Metric over steps -> {"png": bytes, "svg": bytes}; UserError, listing the metrics, if no run has it."""
    available = metric_names(groups)
    metrics = [m for m in available if (m.startswith(name) if name.endswith("/") else m == name)]
    if not metrics:
        raise UserError(f"no run has a training metric {name!r}; there are {', '.join(available) or 'none'}.")
    members = [group for group in groups if not set(metrics).isdisjoint(metric_names([group]))]
    panels = [[group] for group in members] if name.endswith("/") else [members]
    log = _metrics_span_decades(members, metrics)

    def fill(axes: Any) -> None:
        for panel, shown in zip(axes[:, 0], panels, strict=True):
            _fill_metric(panel, shown, name)
            if log:
                style.set_log(panel)

    size = (_PANEL_SIZE[0], _PANEL_SIZE[1] * len(panels))
    return style.render((len(panels), 1), size, fill, sharey="col")


def metric_band(group: Group, name: str) -> list[Point]:
    """Band of a group's training metric over steps."""
    return band([_line(curve, name) for curve in group.curves])


def _fill_metric(panel: "Axes", groups: Sequence[Group], name: str) -> None:
    """One line for each group; for a name that ends in "/", one line for each metric of the only group."""
    if name.endswith("/"):
        (group,) = groups
        metrics = [metric for metric in metric_names([group]) if metric.startswith(name)]
        styles = [style.ordered_line_style(number, len(metrics)) for number in range(len(metrics))]
        lines = [(group, m, look, m.removeprefix(name)) for m, look in zip(metrics, styles, strict=True)]
        title, y = group.title, name.rstrip("/")
    else:
        numbers = {residual: itertools.count() for residual in (True, False)}
        styles = [style.line_style(next(numbers[group.residual]), group.residual) for group in groups]
        lines = [(group, name, look, group.title) for group, look in zip(groups, styles, strict=True)]
        title = y = name
    for group, metric, line_style, label in lines:
        style.plot_band(panel, metric_band(group, metric), line_style, label)
        for curve in group.curves:
            if not curve.run.finished:
                style.mark_unfinished(panel, _line(curve, metric))
    style.set_axes(panel, title, "step", y)
    curves = [curve for group in groups for curve in group.curves]
    unfinished = any(not curve.run.finished for curve in curves)
    style.set_legend(panel, band=len(curves) > len(groups), unfinished=unfinished)


def _metrics_span_decades(groups: Sequence[Group], names: Sequence[str]) -> bool:
    values = [v for group in groups for curve in group.curves for name in names for v in _line(curve, name).values()]
    return min(values) > 0 and max(values) > style.LOG_RATIO * min(values)


def _line(curve: Curve, name: str) -> dict[float, float]:
    return {m["step"]: m[name] for m in curve.run.metrics if m["split"] == "train" and name in m}
