"""Pictures of training metrics over steps, a line for each group.

A name that ends with "/", such as gradient_norm/, stands for all metrics under it, as of the stages of a network: then
each group has a panel with a line for each of them, from dark to light in the order in which they are written.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from inception_jax.compare import looks
from inception_jax.compare.bands import Point, band
from inception_jax.compare.curves import Curve
from inception_jax.compare.groups import Group
from inception_jax.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PLACE = ("step", "epoch", "seconds")
_SIZE = (11, 4.0)  # Inches of a panel with its legend.


def names_of(groups: Sequence[Group]) -> list[str]:
    """The training metrics that there are, in the order in which the runs write them."""
    lines = [m for group in groups for c in group.curves for m in c.run.metrics if m["split"] == "train"]
    names = {name: None for line in lines for name, value in line.items() if isinstance(value, int | float)}
    return [name for name in names if name not in _PLACE]


def file_name(name: str) -> str:
    """A name for files, without an ending: gradient_norm/block_a_1 -> 'gradient_norm-block_a_1'."""
    return re.sub(r"[^\w.-]+", "-", f"{name}all" if name.endswith("/") else name)


def draw(groups: Sequence[Group], name: str) -> dict[str, bytes]:
    """A metric -> {"png": bytes, "svg": bytes}; UserError, listing those there are, when no run has it."""
    names = names_of(groups)
    if not any(one.startswith(name) if name.endswith("/") else one == name for one in names):
        raise UserError(f"no run has a training metric {name!r}; there are {', '.join(names) or 'none'}.")
    if name.endswith("/"):
        rows = [group for group in groups if any(one.startswith(name) for one in names_of([group]))]
        return _picture(len(rows), functools.partial(_fill_parts, rows, name))
    return _picture(1, functools.partial(_fill_groups, [group for group in groups if name in names_of([group])], name))


def points_of(group: Group, name: str) -> list[Point]:
    """A group's band of a training metric over steps."""
    return band([_line(curve, name) for curve in group.curves])


def _picture(rows: int, fill: Callable[[Any], None]) -> dict[str, bytes]:
    return looks.figure_of((rows, 1), (_SIZE[0], _SIZE[1] * rows), fill, sharey="col")


def _fill_groups(groups: Sequence[Group], name: str, panels: Any) -> None:
    panel, counts = panels[0, 0], {True: 0, False: 0}
    for group in groups:
        style = looks.look(counts[group.residual], group.residual)
        counts[group.residual] += 1
        looks.draw_band(panel, points_of(group, name), style, group.title)
    _finish(panel, groups, [name], title=name, y=name)
    if _spans_decades(groups, [name]):
        looks.set_log(panel)


def _fill_parts(groups: Sequence[Group], name: str, panels: Any) -> None:
    log = _spans_decades(groups, [one for one in names_of(groups) if one.startswith(name)])
    for panel, group in zip(panels[:, 0], groups, strict=True):
        parts = [one for one in names_of([group]) if one.startswith(name)]
        for number, one in enumerate(parts):
            looks.draw_band(panel, points_of(group, one), looks.ramp(number, len(parts)), one.removeprefix(name))
        _finish(panel, [group], parts, title=group.title, y=name.rstrip("/"))
        if log:
            looks.set_log(panel)


def _finish(panel: "Axes", groups: Sequence[Group], names: Sequence[str], *, title: str, y: str) -> None:
    curves = [curve for group in groups for curve in group.curves]
    unfinished = [curve for curve in curves if not curve.run.finished]
    for curve in unfinished:
        for name in names:
            looks.draw_end(panel, _line(curve, name))
    looks.set_frame(panel, title, "step", y)
    looks.set_legend(panel, band=len(curves) > len(groups), ended=bool(unfinished))


def _spans_decades(groups: Sequence[Group], names: Sequence[str]) -> bool:
    values = [v for group in groups for curve in group.curves for name in names for v in _line(curve, name).values()]
    return min(values) > 0 and max(values) > looks.LOG_RATIO * min(values)


def _line(curve: Curve, name: str) -> dict[float, float]:
    return {m["step"]: m[name] for m in curve.run.metrics if m["split"] == "train" and name in m}
