"""Figures 21-26 of arXiv 1602.07261 as one page: validation error over epochs."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from inception_jax.compare import looks
from inception_jax.compare.bands import band
from inception_jax.compare.curves import PAIRS, display_name, pair_of
from inception_jax.compare.groups import Group, best_of_each_network

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = (("top1_error", "top-1 error"), ("top5_error", "top-5 error"))
_FIGURES = ((21, 22), (23, 24))  # Of each pair in PAIRS, one a column.
_FIGURES_OF_ALL = (26, 25)
_SIZE = (13, 3.7)  # Inches of a row.


class Row(NamedTuple):
    """A title for each column, and the groups in its two panels."""

    titles: tuple[str, str]
    groups: list[Group]


class _Axis(NamedTuple):
    """The y axis of a column, in percent."""

    floor: float
    top: float
    log: bool
    zero: bool
    """Whether an error is zero."""


def draw(groups: Sequence[Group]) -> dict[str, bytes]:
    """Groups -> {"png": bytes, "svg": bytes}: the rows of `rows_of`, top-1 error at the left and top-5 at the right.

    The median of a group's seeds is a line with a band from the least to the greatest; of a single run the raw
    parameters are drawn too, thin. A logarithmic axis ends at half an image, and an error of zero is drawn there. The
    same groups give the same bytes.
    """
    rows = rows_of(groups)
    size = (_SIZE[0], _SIZE[1] * len(rows))
    # One y axis per column, so that the pairs can be compared with each other as in Figures 25 and 26.
    return looks.figure_of((len(rows), len(_COLUMNS)), size, functools.partial(_fill, rows, groups), sharey="col")


def rows_of(groups: Sequence[Group]) -> list[Row]:
    """The paper's pairs in its order, then all four networks each at its best, then a row for each other network."""
    order = [*PAIRS, *dict.fromkeys(pair_of(g.model) for g in groups if pair_of(g.model) not in PAIRS)]
    members = {pair: [group for group in groups if pair_of(group.model) == pair] for pair in order}
    rows = [_pair_row(pair, members[pair]) for pair in order if members[pair]]
    if all({group.residual for group in members[pair]} == {False, True} for pair in PAIRS):
        best = [group for group in best_of_each_network(groups) if pair_of(group.model) in PAIRS]
        several = len(best) < sum(len(members[pair]) for pair in PAIRS)
        name = "all four" + ", each at its best" * several
        titles = [f"Figure {n}: {name}, {column}" for n, (_, column) in zip(_FIGURES_OF_ALL, _COLUMNS, strict=True)]
        rows.insert(len(PAIRS), Row((titles[0], titles[1]), best))
    return rows


def _pair_row(pair: tuple[str, ...], groups: list[Group]) -> Row:
    # Without variants: a title must fit above its panel, and the legend has them.
    names = " and ".join(dict.fromkeys(display_name(group.model).split(" (")[0] for group in groups))
    whole = pair in PAIRS and {group.residual for group in groups} == {False, True}
    figures = [f"Figure {n}: " for n in _FIGURES[PAIRS.index(pair)]] if whole else ["", ""]  # type: ignore[arg-type]
    titles = [f"{figure}{names}, {column}" for figure, (_, column) in zip(figures, _COLUMNS, strict=True)]
    return Row((titles[0], titles[1]), groups)


def _fill(rows: Sequence[Row], groups: Sequence[Group], panels: Any) -> None:
    axes = {error: _axis(groups, error) for error, _ in _COLUMNS}
    several = any(len(group.curves) > 1 for group in groups)
    ended = any(not curve.run.finished for group in groups for curve in group.curves)
    raw = any(len(group.curves) == 1 and group.curves[0].raw for group in groups)
    styles = _styles(rows)
    for number, row in enumerate(rows):
        for column, (error, _) in enumerate(_COLUMNS):
            panel = panels[number, column]
            for group in row.groups:
                _draw_group(panel, group, error, styles[number][group.label], axes[error].floor)
            looks.set_frame(panel, row.titles[column], "epoch", "validation error (%)")
            if axes[error].log:
                looks.set_log(panel, axes[error].floor if axes[error].zero else None)
            panel.set_ylim(axes[error].floor, axes[error].top)
        first = number == 0
        looks.set_legend(panels[number, -1], raw=first and raw, band=first and several, ended=first and ended)


def _styles(rows: Sequence[Row]) -> list[dict[str, dict[str, Any]]]:
    """For each row the looks of its groups by their labels.

    Each network's best group has the same look in every row; the others of a row take what is left.
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
        styles.append({group.label: looks.look(numbers[group.label], group.residual) for group in row.groups})
    return styles


def _draw_group(panel: "Axes", group: Group, error: str, look: Mapping[str, Any], floor: float) -> None:
    averaged = [{m["epoch"]: max(100 * m[error], floor) for m in curve.averaged} for curve in group.curves]
    looks.draw_band(panel, band(averaged), look, group.title)
    if len(group.curves) == 1:
        raw = [(m["epoch"], max(100 * m[error], floor)) for m in group.curves[0].raw]
        style = {"color": look["color"], "linestyle": look["linestyle"], "linewidth": 0.8, "alpha": 0.4, "zorder": 2}
        panel.plot(*zip(*raw, strict=True) if raw else ([], []), clip_on=False, **style)
    for curve, line in zip(group.curves, averaged, strict=True):
        if not curve.run.finished:
            looks.draw_end(panel, line)


def _axis(groups: Sequence[Group], error: str) -> _Axis:
    """One end to the other of all that is drawn; logarithmic for both columns where one of them needs it."""
    curves = [curve for group in groups for curve in group.curves]
    raw = [m for group in groups if len(group.curves) == 1 for m in group.curves[0].raw]
    errors = [100 * m[error] for m in [*(m for curve in curves for m in curve.averaged), *raw]]
    image = 100 / max(curve.run.info.validation_images for curve in curves)  # The least error above zero.
    least, greatest = min(errors), max(errors)
    if not any(_spans_decades(groups, name, image) for name, _ in _COLUMNS):
        return _Axis(0.0, min(100.0, 1.06 * max(greatest, image)), False, least == 0)
    floor = 0.8 * least if least else image / 2
    return _Axis(floor, min(100.0, 1.3 * max(greatest, image)), True, least == 0)


def _spans_decades(groups: Sequence[Group], error: str, image: float) -> bool:
    # Without step 0, which is chance, and without the raw parameters, which jump.
    curves = [curve for group in groups for curve in group.curves]
    errors = [100 * m[error] for curve in curves for m in curve.averaged if m["step"] > 0]
    return bool(errors) and max(errors) > looks.LOG_RATIO * max(min(errors), image)
