"""Figures 21-26 of arXiv 1602.07261: which networks share one, and validation error over epochs as they draw it."""

import dataclasses
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inception_jax.errors import UserError
from inception_jax.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAIRS = (("inception_v3", "inception_resnet_v1"), ("inception_v4", "inception_resnet_v2"))
"""(pure, residual) as the paper compares them; a name stands for its variants too, such as inception_resnet_v2_slim."""

# Okabe and Ito's colours first, then shades of them: told apart by colour-blind readers, and in print by the dashes.
_RESIDUAL = ("#0072B2", "#56B4E9", "#00395A", "#009E73")
_PURE = ("#D55E00", "#E69F00", "#7A3600", "#CC79A7")
_MARKERS = "os^Dv"
_COLUMNS = (("top1_error", "top-1 error"), ("top5_error", "top-5 error"))
_LOG_RATIO = 20  # From this ratio of greatest to least error on, a linear axis hides the end of training.
_MARKED = 25  # Up to this many evaluations each has its marker.
_STYLE: Any = {
    "text.parse_math": False,  # A run may have a dollar in its name.
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "svg.hashsalt": "inception_jax",  # Without it matplotlib names the elements by a random number.
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run's line: its validation records of the averaged and of the raw parameters, by rising step."""

    run: Run
    label: str
    """Tells the run from the others it is shown with."""
    averaged: list[dict[str, Any]]
    raw: list[dict[str, Any]]

    @property
    def model(self) -> str:
        """The network's name in the table of models."""
        return self.run.experiment.model.name

    @property
    def residual(self) -> bool:
        """Whether the network adds its blocks' outputs to their inputs."""
        return self.model.startswith("inception_resnet")

    @property
    def title(self) -> str:
        """The label, and how far an unfinished run is."""
        step, steps = self.run.metrics[-1]["step"], self.run.info.steps
        return self.label if self.run.finished else f"{self.label} (step {step} of {steps})"


def curves_of(runs: Sequence[Run]) -> list[Curve]:
    """One curve per run, in the order given; UserError naming a run that was never evaluated."""
    curves = []
    for run, label in zip(runs, _labels(runs), strict=True):
        averaged, raw = _evaluations(run, "averaged"), _evaluations(run, "raw")
        if not averaged:
            raise UserError(f"{run.directory} has no validation line yet; wait for its evaluation or leave it out.")
        curves.append(Curve(run, label, averaged, raw))
    return curves


def display_name(model: str) -> str:
    """The paper's spelling: inception_resnet_v2_slim -> 'Inception-ResNet-v2 (slim)'."""
    network = next((name for pair in PAIRS for name in pair if model.startswith(name)), model)
    spelling = network.replace("inception", "Inception").replace("resnet", "ResNet").replace("_", "-")
    variant = model[len(network) :].strip("_").replace("_", " ")
    return f"{spelling} ({variant})" if variant else spelling


def pair_of(model: str) -> tuple[str, ...]:
    """The pair in `PAIRS` that a network belongs to, or the network alone."""
    return next((pair for pair in PAIRS if model.startswith(pair)), (model,))


def draw(curves: Sequence[Curve]) -> dict[str, bytes]:
    """Curves -> {"png": bytes, "svg": bytes}: for each pair a row of two panels, top-1 and top-5 error.

    A network outside `PAIRS` has its own row. A logarithmic axis ends at half an image, and an error of zero is drawn
    there. The same curves give the same bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = _rows(curves)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 3.7 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        _fill(figure, rows)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return {"png": png.getvalue(), "svg": svg.getvalue()}


def _evaluations(run: Run, parameters: str) -> list[dict[str, Any]]:
    # By step, because a run that resumed right after an evaluation may have made it twice.
    found = {m["step"]: m for m in run.metrics if m["split"] == "validation" and m["parameters"] == parameters}
    return [found[step] for step in sorted(found)]


def _labels(runs: Sequence[Run]) -> list[str]:
    """The network's name, and where several runs share it what first tells all of them apart: name, directory, path."""
    networks = [display_name(run.experiment.model.name) for run in runs]
    labels = []
    for run, network in zip(runs, networks, strict=True):
        same = [other for other, name in zip(runs, networks, strict=True) if name == network]
        ways = [[r.info.name for r in same], [r.directory.name for r in same], [str(r.directory) for r in same]]
        spellings = next((way for way in ways if len(set(way)) == len(same)), ways[-1])
        position = next(i for i, other in enumerate(same) if other is run)
        labels.append(network if len(same) == 1 else f"{network}, {spellings[position]}")
    return labels


def _rows(curves: Sequence[Curve]) -> list[tuple[str, list[Curve]]]:
    """(Title, curves) of each row: the paper's pairs in its order, then other networks; pure before residual."""
    order = [*PAIRS, *dict.fromkeys(pair_of(c.model) for c in curves if pair_of(c.model) not in PAIRS)]
    rows = []
    for pair in order:
        members = sorted((c for c in curves if pair_of(c.model) == pair), key=lambda c: c.residual)
        # Without variants: a title must fit above its panel, and the legend has them.
        names = dict.fromkeys(display_name(c.model).split(" (")[0] for c in members)
        if members:
            rows.append((" and ".join(names), members))
    return rows


def _fill(figure: "Figure", rows: Sequence[tuple[str, Sequence[Curve]]]) -> None:
    # One y axis per column, so that the pairs can be compared with each other as in Figures 25 and 26.
    axes = figure.subplots(len(rows), len(_COLUMNS), sharey="col", squeeze=False)
    everything = [curve for _, curves in rows for curve in curves]
    log = any(_spans_decades(everything, error) for error, _ in _COLUMNS)
    marked = max(len(curve.averaged) for curve in everything) <= _MARKED
    for column, (error, name) in enumerate(_COLUMNS):
        floor, top, zero = _limits(everything, error, log)
        for row, (title, curves) in enumerate(rows):
            panel = axes[row, column]
            _draw_panel(panel, curves, error, floor=floor, marked=marked)
            panel.set_title(f"{title}, {name}", loc="left")
            panel.set(xlabel="epoch", ylabel="validation error (%)")
            panel.tick_params(labelleft=True)
            panel.margins(x=0.02)
            panel.set_xlim(left=0)
            panel.grid(color="#DDDDDD", linewidth=0.6)
            panel.set_axisbelow(True)
            if log:
                _set_log(panel, floor if zero else None)
            panel.set_ylim(floor, top)
            if column == 0:
                _legend(panel, curves, with_raw=row == 0)


def _spans_decades(curves: Sequence[Curve], error: str) -> bool:
    # Without step 0, which is chance, and without the raw parameters, which jump.
    errors = [m[error] for curve in curves for m in curve.averaged if m["step"] > 0]
    return bool(errors) and max(errors) > _LOG_RATIO * max(min(errors), _resolution(curves))


def _resolution(curves: Sequence[Curve]) -> float:
    """The least error above zero: one image of the largest validation set."""
    return 1 / max(curve.run.info.validation_images for curve in curves)


def _limits(curves: Sequence[Curve], error: str, log: bool) -> tuple[float, float, bool]:
    """Lower and upper end of the axis in percent, and whether an error is zero."""
    errors = [100 * record[error] for curve in curves for record in (*curve.averaged, *curve.raw)]
    least, greatest, image = min(errors), max(errors), 100 * _resolution(curves)
    if not log:
        return 0.0, min(100.0, 1.06 * max(greatest, image)), least == 0
    return (0.8 * least if least else image / 2), min(100.0, 1.3 * max(greatest, image)), least == 0


def _draw_panel(panel: "Axes", curves: Sequence[Curve], error: str, *, floor: float, marked: bool) -> None:
    drawn = {True: 0, False: 0}
    for curve in curves:
        number = drawn[curve.residual]
        drawn[curve.residual] += 1
        palette = _RESIDUAL if curve.residual else _PURE
        colour = palette[number % len(palette)]
        dashes: Any = "-" if curve.residual else (0, (4, 1.8))
        for records, look in (
            (curve.raw, {"linewidth": 0.8, "alpha": 0.4, "zorder": 2}),
            (
                curve.averaged,
                {"linewidth": 1.8, "label": curve.title, "zorder": 3, **(_marker(number, curve) if marked else {})},
            ),
        ):
            epochs = [record["epoch"] for record in records]
            heights = [max(100 * record[error], floor) for record in records]
            # Unclipped, so that a line along the lower edge keeps its full width.
            panel.plot(epochs, heights, color=colour, linestyle=dashes, clip_on=False, **look)


def _marker(number: int, curve: Curve) -> dict[str, Any]:
    marker = _MARKERS[number % len(_MARKERS)]
    return {"marker": marker, "markersize": 4, "markerfacecolor": None if curve.residual else "white"}


def _set_log(panel: "Axes", zero: float | None) -> None:
    """Makes the y axis logarithmic, with a tick for zero at the height where zero is drawn, if any is."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator

    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_locator(FixedLocator([] if zero is None else [zero]))
    panel.yaxis.set_minor_formatter(FixedFormatter([] if zero is None else ["0"]))


def _legend(panel: "Axes", curves: Sequence[Curve], *, with_raw: bool) -> None:
    from matplotlib.lines import Line2D

    handles, labels = panel.get_legend_handles_labels()
    if with_raw and any(curve.raw for curve in curves):
        handles.append(Line2D([], [], color="#555555", linewidth=0.8, alpha=0.6))
        labels.append("thin: parameters not averaged")
    # The handles are long enough to show two dashes.
    panel.legend(handles, labels, loc="best", framealpha=0.9, edgecolor="none", handlelength=2.8)
