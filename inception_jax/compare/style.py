"""Lines, bands, axes and legends of all figures of this package."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inception_jax.compare.statistics import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours first, ten in all for an ablation; dashes and markers distinguish the lines in print.
_RESIDUAL = "#0072B2 #009E73 #56B4E9 #00395A #7B61C9 #66C2A5 #2F2FA2 #8AA0B0 #00504A #A9CCE8".split()
_PURE = "#D55E00 #CC79A7 #E69F00 #7A3600 #C4001A #D4B800 #8C6D31 #F4978E #8A005E #5C5C5C".split()
_MARKERS = "os^DvPX"  # Their number is coprime to that of the colours: the eleventh line differs from the first.
_LEGEND = 16  # Legend entries in a column beside a panel.
_MARKED = 25  # Maximum number of points with markers.
LOG_RATIO = 20  # Above this ratio of maximum to minimum the y axis is logarithmic.
_STYLE: Any = {
    "text.parse_math": False,  # The name of a run may contain a dollar sign.
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "svg.hashsalt": "inception_jax",  # By default matplotlib's element names are random.
}


def render(
    panels: tuple[int, int], size: tuple[float, float], fill: Callable[[Any], None], **subplot_options: Any
) -> dict[str, bytes]:
    """Figure of `panels` (rows, columns) and `size` (width, height in inches) -> {"png": bytes, "svg": bytes}.

    `fill` draws on the axes, an array [rows, columns]. The output is deterministic.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        fill(figure.subplots(*panels, squeeze=False, **subplot_options))
        return _encode(figure)


def _encode(figure: "Figure") -> dict[str, bytes]:
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return {"png": png.getvalue(), "svg": svg.getvalue()}


def line_style(number: int, residual: bool) -> dict[str, Any]:
    """Colour, dashes and marker of a line by its number, from 0, among the residual or the pure networks."""
    palette = _RESIDUAL if residual else _PURE
    return {
        "color": palette[number % len(palette)],
        "linestyle": "-" if residual else (0, (4, 1.8)),
        "marker": _MARKERS[number % len(_MARKERS)],
        "markerfacecolor": None if residual else "white",
    }


def ordered_line_style(number: int, count: int) -> dict[str, Any]:
    """Style of one of `count` ordered lines, dark to light."""
    import matplotlib

    return {"color": matplotlib.colormaps["viridis"](0.92 * number / max(count - 1, 1)), "linestyle": "-"}


def plot_band(panel: "Axes", points: Sequence[Point], line_style: Mapping[str, Any], label: str) -> None:
    """Plot the median as a line and, for several seeds, a band from minimum to maximum."""
    xs = [point.x for point in points]
    style = {**line_style, "markersize": 4} if len(points) <= _MARKED else {**line_style, "marker": None}
    # Unclipped: a line along the lower edge keeps its full width. An empty one would collapse the layout.
    panel.plot(xs, [p.median for p in points], linewidth=1.8, zorder=3, clip_on=not xs, label=label, **style)
    if any(point.seeds > 1 for point in points):
        lows, highs = [point.low for point in points], [point.high for point in points]
        panel.fill_between(xs, lows, highs, color=line_style["color"], alpha=0.16, linewidth=0, zorder=1)


def mark_unfinished(panel: "Axes", line: Mapping[float, float]) -> None:
    """Mark the last point of an unfinished run with a cross."""
    if line:
        panel.plot([max(line)], [line[max(line)]], marker="x", markersize=7, color="#222222", zorder=4, clip_on=False)


def set_axes(panel: "Axes", title: str, x: str, y: str) -> None:
    """Set title, axis labels and grid."""
    panel.set_title(title, loc="left")
    panel.set(xlabel=x, ylabel=y)
    panel.tick_params(labelleft=True)
    panel.margins(x=0.02)
    panel.set_xlim(left=0)
    panel.grid(color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)


def set_log(panel: "Axes", zero: float | None = None) -> None:
    """Make the y axis logarithmic; `zero` is the height at which zero is drawn, which gets a tick."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator

    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(FixedLocator([] if zero is None else [zero]))
    panel.yaxis.set_minor_formatter(FixedFormatter([] if zero is None else ["0"]))


def set_legend(panel: "Axes", *, raw: bool = False, band: bool = False, unfinished: bool = False) -> None:
    """Put the legend beside the panel, where it covers no line, with entries for thin lines, bands and crosses."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles, labels = panel.get_legend_handles_labels()
    notes = (
        (raw, Line2D([], [], color="#555555", linewidth=0.8, alpha=0.6), "thin: raw parameters"),
        (band, Patch(color="#555555", alpha=0.25, linewidth=0), "line: median of seeds,\nband: minimum to maximum"),
        (unfinished, Line2D([], [], color="#222222", marker="x", linestyle=""), "unfinished run"),
    )
    handles += [handle for drawn, handle, _ in notes if drawn]
    labels += [label for drawn, _, label in notes if drawn]
    # Long enough handles to show two dashes.
    beside: Any = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "borderaxespad": 0.0}
    columns = math.ceil(len(handles) / _LEGEND)
    panel.legend(handles, labels, ncols=columns, frameon=False, handlelength=2.8, **beside)
