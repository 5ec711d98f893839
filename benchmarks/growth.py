"""Growth of step time and multiply-adds with batch size, image size, width and depth of a network.

    python benchmarks/growth.py --model inception_v4 --plot growth.png

Each of the four varies around a common middle point; training and inference are compiled and timed at every point.
"grows as" gives the exponents p of time ~ x^p and of multiply-adds ~ x^p, fitted on logarithmic axes. If that of the
time is larger, the step becomes less efficient. About ten minutes on two idle cores; other load affects the numbers.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from inception_jax.system import xla_flags

xla_flags.set_flags()  # before anything imports JAX

import numpy as np  # noqa: E402

from inception_jax import build, steps  # noqa: E402
from inception_jax.benchmark.network import compile_step, recipe  # noqa: E402
from inception_jax.errors import UserError  # noqa: E402
from inception_jax.models.summary import summarize  # noqa: E402

AXES = ("batch", "image size", "width", "depth")
MODES = ("train", "infer")


@dataclasses.dataclass(frozen=True)
class Point:
    """Measurement of a step."""

    at: tuple[float, ...]
    """Batch size, image size, width, and number of blocks at each of the three grids."""
    multiply_adds: float
    """Multiply-adds of the step; a training step counts as three forward passes."""
    seconds: float
    """Duration of the step, median over the repeats."""
    compile_seconds: float


def main() -> int:
    """Measure along the four axes and print a table; with --plot also draw it."""
    parser = argparse.ArgumentParser(description="Step time against batch size, image size, width and depth.")
    parser.add_argument("--model", default="inception_v4")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--image-size", type=int, nargs="+", default=[75, 149, 299])
    parser.add_argument("--width", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--depth", type=int, nargs="+", default=[1, 2, 4], help="blocks at each grid")
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", metavar="FILE", help="draw the curves, as .png, .svg or .pdf")
    args = parser.parse_args()
    steps.use_synchronous_cpu_dispatch()
    axes = [sorted(set(values)) for values in (args.batch, args.image_size, args.width, args.depth)]
    curves: dict[str, dict[str, list[Point]]] = {}
    try:
        for mode in MODES:
            curves[mode] = measure(mode, args.model, axes, args.seconds, args.repeats)
            print(table(mode, args.model, curves[mode]), flush=True)
    except UserError as error:
        print(f"growth: {error}", file=sys.stderr)
        return 2
    if args.plot:
        draw(curves, args.model, args.plot)
    return 0


def measure(mode: Any, model: str, axes: list[list[float]], seconds: float, repeats: int) -> dict[str, list[Point]]:
    """Points along each axis with the others at their middle value; an axis with one value has no curve."""
    middle = tuple(values[len(values) // 2] for values in axes)
    points: dict[tuple[float, ...], Point] = {}
    curves: dict[str, list[Point]] = {}
    for i, (axis, values) in enumerate(zip(AXES, axes, strict=True)):
        if len(values) == 1:
            continue
        curves[axis] = []
        for value in values:
            at = (*middle[:i], value, *middle[i + 1 :])
            if at not in points:
                points[at] = time_step(mode, model, at, seconds, repeats)
            curves[axis].append(points[at])
    return curves


def time_step(mode: Any, model: str, at: tuple[float, ...], seconds: float, repeats: int) -> Point:
    """Compiles one step and times it."""
    batch, size, width, depth = int(at[0]), int(at[1]), at[2], int(at[3])
    experiment = recipe(model, batch_size=batch, image_size=size, dtype="float32")
    experiment = dataclasses.replace(
        experiment, model=dataclasses.replace(experiment.model, width=width, depths=(depth,) * 3)
    )
    forward = batch * sum(row.multiply_adds for row in summarize(build.make_model(experiment), size))
    step = compile_step(mode, experiment)
    step()
    step.finish()
    rate = statistics.median(step.steps_per_second(seconds) for _ in range(repeats))
    return Point(at, forward * (3 if mode == "train" else 1), 1 / rate, step.compile_seconds)


def slope(x: list[float], y: list[float]) -> float:
    """Exponent p of y ~ x^p, by least squares on logarithmic axes."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def table(mode: str, model: str, curves: dict[str, list[Point]]) -> str:
    """Table of all points, with the exponents below each curve."""
    return "\n".join(_lines(mode, model, curves))


def _lines(mode: str, model: str, curves: dict[str, list[Point]]) -> Iterator[str]:
    yield f"\n{model}, {mode}"
    for i, (axis, points) in enumerate(curves.items()):
        number = AXES.index(axis)
        rest = ", ".join(f"{a} {points[0].at[j]:g}" for j, a in enumerate(AXES) if j != number)
        yield "\n" * bool(i) + f"{axis:<12}{'G multiply-adds':>17}{'ms a step':>12}{'G/s':>8}{'compile s':>11}   {rest}"
        for p in points:
            work = p.multiply_adds / 1e9
            cells = f"{work:>17,.2f}{p.seconds * 1e3:>12,.1f}{work / p.seconds:>8,.1f}{p.compile_seconds:>11.1f}"
            yield f"{p.at[number]:<12g}{cells}"
        x = [p.at[number] for p in points]
        work, time, compiling = (
            slope(x, [getattr(p, name) for p in points]) for name in ("multiply_adds", "seconds", "compile_seconds")
        )
        yield f"{'grows as':<12}{f'x^{work:.2f}':>17}{f'x^{time:.2f}':>12}{'':>8}{f'x^{compiling:.2f}':>11}"


def draw(curves: dict[str, dict[str, list[Point]]], model: str, file: str) -> None:
    """Draw a row of panels for each mode: step time, and multiply-adds scaled to meet it at the last point."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    axes = list(curves[MODES[0]])
    figure, panels = pyplot.subplots(
        len(MODES), len(axes), figsize=(3.2 * len(axes), 6), squeeze=False, layout="constrained"
    )
    for row, mode in zip(panels, MODES, strict=True):
        for panel, axis in zip(row, axes, strict=True):
            points = curves[mode][axis]
            x = [p.at[AXES.index(axis)] for p in points]
            time, work = [p.seconds * 1e3 for p in points], [p.multiply_adds for p in points]
            panel.loglog(x, time, "o-", label=f"time, $x^{{{slope(x, time):.2f}}}$")
            scaled = [time[-1] * w / work[-1] for w in work]
            panel.loglog(x, scaled, "--", color="grey", label=f"multiply-adds, $x^{{{slope(x, work):.2f}}}$")
            panel.set_xticks(x, [f"{value:g}" for value in x])
            panel.set_yticks(time, [f"{value:,.3g}" for value in time])
            panel.minorticks_off()
            panel.set(xlabel=axis, title=f"{mode}: {axis}")
            panel.legend(fontsize="small")
        row[0].set_ylabel("ms a step")
    figure.suptitle(model)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
