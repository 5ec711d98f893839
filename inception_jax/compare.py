"""Compares runs: error over epochs as in Figures 21-26 of arXiv 1602.07261, and tables of speed. No jax.

The paper's claim is that residual networks train much faster than pure ones of the same cost (section 4), so the
tables ask when each of a pair first came down to an error, in epochs, in time and in arithmetic.
"""

import csv
import dataclasses
import io
import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_jax.config import differences
from inception_jax.curves import PAIRS, Curve, curves_of, display_name, draw, pair_of
from inception_jax.errors import UserError
from inception_jax.runs import read_run

LEVELS = (90, 80, 70, 60, 50, 40, 30, 20, 15, 10, 7, 5, 3, 2, 1)
"""Top-1 errors, in percent, of the tables of speed."""


@dataclasses.dataclass(frozen=True)
class Race:
    """What each of a pair spent until an error was reached (None: never), and what it had spent in all."""

    pure: float | None
    residual: float | None
    pure_spent: float
    residual_spent: float

    @property
    def speed_up(self) -> str:
        """Pure over residual; '> x' or '< x' where only the residual or only the pure network got there."""
        if self.pure is not None and self.residual:
            return f"{self.pure / self.residual:.2f}"
        if self.residual:
            return f"> {self.pure_spent / self.residual:.2f}"
        if self.pure is not None and self.residual is None and self.residual_spent:
            return f"< {self.pure / self.residual_spent:.2f}"
        return "—"

    @property
    def lead(self) -> int:
        """1 when the residual network got there for less, -1 when the pure one did, 0 when equal or undecided."""
        if self.pure is not None and self.residual is not None:
            return (self.residual < self.pure) - (self.pure < self.residual)
        # Who never got there is behind only if it had spent as much as the other needed.
        if self.residual is not None:
            return int(self.residual <= self.pure_spent)
        return -int(self.pure is not None and self.pure <= self.residual_spent)


def compare(directories: Sequence[str | Path], out: str | Path) -> list[Path]:
    """Reads runs and writes curves.png, curves.svg, comparison.md and comparison.csv into `out`; returns their paths.

    Each file is written whole or not at all. A directory given twice counts once. UserError when there is no run, or
    one was never evaluated.
    """
    unique = {Path(directory).resolve(): Path(directory) for directory in directories}
    if not unique:
        raise UserError("there is no run to compare; give the directory of at least one.")
    curves = curves_of([read_run(directory) for directory in unique.values()])
    rows = [summary_row(curve) for curve in curves]
    drawn = draw(curves)
    contents = {
        "curves.png": drawn["png"],
        "curves.svg": drawn["svg"],
        "comparison.md": _markdown(curves, rows).encode(),
        "comparison.csv": _csv(rows).encode(),
    }
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        temporary = out / f"{name}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, out / name)
    return [out / name for name in contents]


def summary_row(curve: Curve) -> dict[str, Any]:
    """A run's line of comparison.csv.

    Errors are fractions, of the averaged parameters unless they say raw. Final is the last evaluation so far, best
    the earliest with the least error. None is not known.
    """
    info, experiment, metrics = curve.run.info, curve.run.experiment, curve.run.metrics
    final, raw = curve.averaged[-1], curve.raw[-1] if curve.raw else {}
    best1 = min(curve.averaged, key=lambda record: record["top1_error"])
    best5 = min(curve.averaged, key=lambda record: record["top5_error"])
    speeds = [m["images_per_second"] for m in metrics if m["split"] == "train" and "images_per_second" in m]
    return {
        "label": curve.label,
        "directory": str(curve.run.directory),
        "run": info.name,
        "model": curve.model,
        "kind": "residual" if curve.residual else "pure",
        "seed": experiment.seed,
        "parameters": info.parameters,
        "multiply_adds": info.multiply_adds,
        "batch_size": experiment.train.batch_size,
        "learning_rate": experiment.optim.learning_rate,
        "steps": metrics[-1]["step"],
        "steps_planned": info.steps,
        "epochs": metrics[-1]["epoch"],
        "final_epoch": final["epoch"],
        "final_top1_error": final["top1_error"],
        "best_top1_error": best1["top1_error"],
        "best_top1_epoch": best1["epoch"],
        "final_top5_error": final["top5_error"],
        "best_top5_error": best5["top5_error"],
        "best_top5_epoch": best5["epoch"],
        "final_raw_top1_error": raw.get("top1_error"),
        "final_raw_top5_error": raw.get("top5_error"),
        "wall_seconds": metrics[-1]["seconds"],
        "images_per_second": statistics.median(speeds) if speeds else None,
        "training_images": info.training_images,
        "validation_images": info.validation_images,
    }


def levels(pure: Curve, residual: Curve) -> list[int]:
    """Those of `LEVELS` that one of the two reaches, and that the first evaluation of both does not yet meet."""
    errors = [[record["top1_error"] for record in _learned(curve)] or [math.inf] for curve in (pure, residual)]
    least, first = min(map(min, errors)), max(column[0] for column in errors)
    return [level for level in LEVELS if _meets(least, level) and not _meets(first, level)]


def race(pure: Curve, residual: Curve, level: int, cost: Callable[[Curve, Mapping[str, Any]], float]) -> Race:
    """What two runs spent up to their first evaluation at or under a top-1 error of `level` percent."""

    def spent(curve: Curve) -> float | None:
        return next((cost(curve, m) for m in _learned(curve) if _meets(m["top1_error"], level)), None)

    return Race(spent(pure), spent(residual), cost(pure, pure.averaged[-1]), cost(residual, residual.averaged[-1]))


def arithmetic(curve: Curve, record: Mapping[str, Any]) -> float:
    """Forward multiply-adds of the training images seen up to an evaluation."""
    return record["step"] * curve.run.experiment.train.batch_size * curve.run.info.multiply_adds


def _learned(curve: Curve) -> list[dict[str, Any]]:
    # Without step 0: an untrained network can be under 90 % by luck, and that is not speed.
    return [record for record in curve.averaged if record["step"] > 0]


def _meets(error: float, level: int) -> bool:
    return error <= level / 100 + 1e-9  # Errors are quotients of counts in floating point.


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(curves: Sequence[Curve], rows: Sequence[Mapping[str, Any]]) -> str:
    blocks = [
        "# Comparison",
        "![Validation error over epochs](curves.png)",
        "Single-crop validation error in percent, of the averaged parameters unless marked raw, as in Figures 21-26 of "
        "arXiv 1602.07261. An error of zero stands at the foot of a logarithmic axis.",
        _runs_table(curves, rows),
    ]
    for pair in PAIRS:
        members = [curve for curve in curves if pair_of(curve.model) == pair]
        pures, residuals = ([curve for curve in members if curve.residual is kind] for kind in (False, True))
        if pures and residuals:
            blocks += _pair_section(pures, residuals)
    return "\n\n".join([*blocks, _footer(curves, rows)]) + "\n"


def _runs_table(curves: Sequence[Curve], rows: Sequence[Mapping[str, Any]]) -> str:
    header = "network|kind|parameters|multiply-adds per image|learning rate|epochs|final top-1|best top-1 (epoch)"
    header += "|final top-5|best top-5 (epoch)|final raw top-1|wall time|images/s"
    lines = [
        [
            curve.title,
            row["kind"],
            _quantity(row["parameters"]),
            _quantity(row["multiply_adds"]),
            f"{row['learning_rate']:g}",
            f"{row['epochs']:.4g}",
            _percent(row["final_top1_error"]),
            f"{_percent(row['best_top1_error'])} ({row['best_top1_epoch']:.4g})",
            _percent(row["final_top5_error"]),
            f"{_percent(row['best_top5_error'])} ({row['best_top5_epoch']:.4g})",
            _percent(row["final_raw_top1_error"]),
            _duration(row["wall_seconds"]),
            "—" if row["images_per_second"] is None else f"{row['images_per_second']:.4g}",
        ]
        for curve, row in zip(curves, rows, strict=True)
    ]
    return _table(header.split("|"), lines)


def _pair_section(pures: Sequence[Curve], residuals: Sequence[Curve]) -> list[str]:
    """Heading, table and sentences of one pair; of several runs of a kind, that with the least final error stands."""
    pure, residual = (min(runs, key=lambda curve: curve.averaged[-1]["top1_error"]) for runs in (pures, residuals))
    header = ["top-1 error at most"]
    for name, _, _ in _COSTS:
        header += [f"{name}, pure", f"{name}, residual", "speed-up"]
    lines, races = [], []
    for level in levels(pure, residual):
        lines.append([f"{level} %"])
        races.append([race(pure, residual, level, cost) for _, cost, _ in _COSTS])
        for (_, _, spell), one in zip(_COSTS, races[-1], strict=True):
            lines[-1] += [*("—" if v is None else spell(v) for v in (one.pure, one.residual)), one.speed_up]
    sentences = [_verdict(pure, residual, races), _fairness(pure, residual)]
    for runs, chosen in ((pures, pure), (residuals, residual)):
        if len(runs) > 1:
            sentences.append(f"{chosen.label} stands for {len(runs)} runs as the one with the least final top-1 error.")
    return [f"## {pure.title} and {residual.title}", *([_table(header, lines)] if lines else []), " ".join(sentences)]


def _verdict(pure: Curve, residual: Curve, races: Sequence[Sequence[Race]]) -> str:
    ahead, behind = ([sum(r[i].lead == lead for r in races) for i in range(len(_COSTS))] for lead in (1, -1))
    counts = [f"{count} by {name}" for count, (name, _, _) in zip(ahead, _COSTS, strict=True)]
    lead = (
        f"Of {len(races)} levels {residual.label} was ahead of {pure.label} at {', '.join(counts)}, and behind at "
        f"{', '.join(map(str, behind))}"
    )
    if not races:
        lead = "No level tells the two apart"
    ends = [
        f"{_percent(curve.averaged[-1]['top1_error'])} % after {curve.averaged[-1]['epoch']:.4g} epochs"
        for curve in (residual, pure)
    ]
    return f"{lead}; the final top-1 error of {residual.label} is {ends[0]}, that of {pure.label} {ends[1]}."


def _fairness(pure: Curve, residual: Curve) -> str:
    others = [
        f"{field} ({ours} and {theirs})"
        for field, (ours, theirs) in differences(residual.run.experiment, pure.run.experiment).items()
        if field != "model.name"
    ]
    return f"Their experiments differ in {', '.join(['the network', *others])}" + ("." if others else " alone.")


def _footer(curves: Sequence[Curve], rows: Sequence[Mapping[str, Any]]) -> str:
    images = sorted({row["validation_images"] for row in rows})
    spread = max(math.sqrt(e * (1 - e) / row["validation_images"]) for row in rows for e in [row["final_top1_error"]])
    counts = Counter(display_name(curve.model) for curve in curves)
    seeds = (
        "One seed was run per network, so what another seed would change is not measured."
        if set(counts.values()) == {1}
        else "Runs per network: " + ", ".join(f"{network} {count}" for network, count in counts.items()) + "."
    )
    return (
        f"Errors are measured on {' or '.join(f'{n:,}' for n in images)} validation images: one image is "
        f"{100 / images[0]:.2g} points, and the standard error of a final top-1 error at most {100 * spread:.2g}. "
        f"{seeds} Epochs, wall time and multiply-adds are those of the first evaluation at or under the error, not "
        "interpolated; speed-up is pure / residual, '> x' or '< x' where only one of the two got there in the epochs "
        "it ran. Multiply-adds are training images seen x forward multiply-adds per image."
    )


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _percent(error: float | None) -> str:
    return "—" if error is None else f"{100 * error:.2f}"


def _quantity(value: float) -> str:
    """Three digits and a unit: 55843161 -> '55.8 M'."""
    units = ["", " k", " M", " G", " T", " P", " E"]
    value = float(f"{value:.3g}")  # First, or 999.9 k would be written 1e+03 k.
    power = max((p for p in range(len(units)) if value >= 1000**p), default=0)
    return f"{value / 1000**power:.3g}{units[power]}"


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


_COSTS: tuple[tuple[str, Callable[[Curve, Mapping[str, Any]], float], Callable[[float], str]], ...] = (
    ("epochs", lambda _, record: record["epoch"], lambda value: f"{value:.4g}"),
    ("wall time", lambda _, record: record["seconds"], _duration),
    ("multiply-adds", arithmetic, _quantity),
)
