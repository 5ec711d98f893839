"""comparison.md: what the paper claims and what the numbers answer, the runs, and each pair in its own section."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from inception_jax.compare import tables
from inception_jax.compare.claims import Pairing, Verdict, answer
from inception_jax.compare.final_error import FinalError
from inception_jax.compare.records import summary_row
from inception_jax.compare.runs_to_groups import Curve, Group
from inception_jax.compare.statistics import Estimate
from inception_jax.compare.time_to_error import COSTS, EPOCHS, TargetComparison
from inception_jax.config import differences


def markdown(
    groups: Sequence[Group], waiting: Sequence[Curve], pairings: Sequence[Pairing], verdicts: Sequence[Verdict]
) -> str:
    """The whole report; `waiting` are runs that were never evaluated."""
    blocks = ["# Comparison"]
    if pairings:
        blocks += ["## What the paper claims", *map(_verdict, verdicts), _FEW_SEEDS_NOTE]
    blocks += ["## Runs", "![Validation error over epochs](curves.png)", _RUNS_NOTE, _runs_table(groups)]
    if waiting:
        names = ", ".join(f"{curve.run.directory}{curve.progress}" for curve in waiting)
        blocks.append(f"Left out, because never evaluated: {names}.")
    if pairings:
        blocks += ["## Pairs", _PAIRS_NOTE, _pairs_table(pairings)]
    for pairing in pairings:
        blocks += _section(pairing)
    return "\n\n".join([*blocks, "## How to read it", _notes(groups) + _TARGETS_NOTE * bool(pairings)]) + "\n"


_FEW_SEEDS_NOTE = (
    "Intervals here are Student's t of 95 % over the seeds that all compared runs share: with 3 seeds only what stands "
    "out by far from what another seed does is found, and undecided does not mean that there is no difference. Fewer "
    "than 3 seeds decide nothing. The networks stand each at the setting with the least median final top-1 error "
    "among those given, of whatever width and images, chosen on the same validation images. An answer of yes or no "
    "needs every line under it to say so."
)
_RUNS_NOTE = (
    "Single-crop validation error in percent, of the averaged parameters unless marked raw, as in Figures 21-26 of "
    "arXiv 1602.07261; of several seeds the median, and in brackets the least and the greatest. An error of zero "
    "stands at the foot of a logarithmic axis."
)
_PAIRS_NOTE = (
    "Speed-up: pure / residual, the geometric mean over the errors raced to, mean over the seeds in common, 95 % t "
    "interval. Difference: final top-1 error at equal epochs, residual less pure, in points. Each interval and each p "
    "stands for itself: of twenty true zeros one comes out apart from zero by chance."
)


_TARGETS_NOTE = (
    " Epochs, wall time and multiply-adds in the races are those of the first evaluation at or under the error, not "
    "interpolated; of several seeds the median, and — where half or more never got there. Speed-up is pure / "
    "residual, '> x' or '< x' where only one of the two got there in the epochs it ran. Brackets in the races are "
    "percentiles of 10,000 bootstrap resamples of the seeds, which are too narrow with few; ∞ is more than was "
    "run. Final errors are means over the seeds, compared by a paired t test; at an equal cost each run stands at "
    "its last evaluation within what the one that spent less had spent. Multiply-adds are training images seen x "
    "forward multiply-adds per image."
)


def _verdict(verdict: Verdict) -> str:
    lines = [
        f"- {one.about}: {one.words} ({tables.pluralize(len(one.seeds), 'seed')}): {one.answer}"
        for one in verdict.evidence
    ]
    if not lines:
        lines = ["- the networks that it is about are not all among these runs"]
    head = f"**{verdict.claim} {verdict.answer.capitalize()}.** {verdict.criterion}"
    return "\n".join([head, "", *lines])


def _runs_table(groups: Sequence[Group]) -> str:
    header = "network|kind|parameters|multiply-adds per image|learning rate|epochs|final top-1|best top-1 (epoch)"
    header += "|final top-5|best top-5 (epoch)|final raw top-1|wall time|images/s"
    return tables.markdown_table(header.split("|"), [_runs_line(group) for group in groups])


def _runs_line(group: Group) -> list[str]:
    rows = [summary_row(curve, "") for curve in group.curves]

    def median(field: str) -> Any:
        values = [row[field] for row in rows if row[field] is not None]
        return statistics.median(values) if values else None

    def spread(field: str) -> str:
        ends = [tables.percent(end([row[field] for row in rows])) for end in (min, max)]
        return tables.percent(median(field)) + (f" [{ends[0]}, {ends[1]}]" if len(rows) > 1 else "")

    speed = median("images_per_second")
    return [
        group.title,
        rows[0]["kind"],
        tables.quantity(rows[0]["parameters"]),
        tables.quantity(rows[0]["multiply_adds"]),
        f"{rows[0]['learning_rate']:g}",
        tables.number(median("epochs")),
        spread("final_top1_error"),
        f"{tables.percent(median('best_top1_error'))} ({tables.number(median('best_top1_epoch'))})",
        spread("final_top5_error"),
        f"{tables.percent(median('best_top5_error'))} ({tables.number(median('best_top5_epoch'))})",
        tables.percent(median("final_raw_top1_error")),
        tables.duration(median("wall_seconds")),
        tables.MISSING if speed is None else tables.number(speed),
    ]


def _pairs_table(pairings: Sequence[Pairing]) -> str:
    header = ["pair", "why", "seeds in common", *(f"speed-up, {cost.name}" for cost in COSTS)]
    header += ["faster by epochs", "difference", "p"]
    lines = []
    for pairing in pairings:
        by_epochs = pairing.log_speed_up()
        final = next((e for e in pairing.final_errors if (e.cost, e.error) == (EPOCHS, "top1_error")), None)
        lines.append(
            [
                pairing.label,
                ", ".join(pairing.reasons),
                str(len(pairing.seeds)),
                *(tables.log_factor(pairing.log_speed_up(cost)) for cost in COSTS),
                answer(by_epochs) if by_epochs else "undecided",
                *(_difference(final.difference) if final else [tables.MISSING] * 2),
            ]
        )
    return tables.markdown_table(header, lines)


def _difference(found: Estimate) -> list[str]:
    return [tables.points(found.mean) + tables.bracketed(found.interval, tables.points), tables.p_value(found.p)]


def _section(pairing: Pairing) -> list[str]:
    """Heading, tables and sentences of one pair."""
    blocks = [f"### {pairing.pure.title} and {pairing.residual.title}"]
    if pairing.target_comparisons:
        blocks.append(_targets_table(pairing.target_comparisons))
    if pairing.final_errors:
        blocks.append(_final_errors_table(pairing.final_errors))
    sentences = [_leads(pairing), _fairness(pairing)]
    if not pairing.seeds:
        sentences.append("They have no seed in common, so Welch's test stands for the paired one.")
    return [*blocks, " ".join(sentences)]


def _targets_table(target_comparisons: Sequence[Sequence[TargetComparison]]) -> str:
    header = ["top-1 error at most"]
    for cost in COSTS:
        header += [f"{cost.name}, pure", f"{cost.name}, residual", "speed-up"]
    lines = []
    for costs_at_target in target_comparisons:
        lines.append([f"{costs_at_target[0].target} %"])
        for comparison in costs_at_target:
            for spent, interval in (
                (comparison.costs.pure, comparison.pure),
                (comparison.costs.residual, comparison.residual),
            ):
                value = comparison.cost.format(spent.value) if spent.reached else tables.MISSING
                lines[-1].append(value + tables.bracketed(interval, comparison.cost.format))
            lines[-1].append(comparison.costs.speed_up + tables.bracketed(comparison.speed_up, tables.factor))
    return tables.markdown_table(header, lines)


def _final_errors_table(final_errors: Sequence[FinalError]) -> str:
    header = ["final error at equal", "spent", "error", "pure", "residual", "difference", "p", "seeds"]
    lines = []
    for final_error in final_errors:
        spent = list(dict.fromkeys(final_error.cost.format(end) for end in final_error.budget))
        lines.append(
            [
                final_error.cost.name,
                " to ".join(spent),
                final_error.error.replace("_error", "").replace("top", "top-"),
                tables.percent(final_error.pure),
                tables.percent(final_error.residual),
                *_difference(final_error.difference),
                str(final_error.difference.seeds),
            ]
        )
    return tables.markdown_table(header, lines)


def _leads(pairing: Pairing) -> str:
    ours, theirs, target_comparisons = pairing.residual.label, pairing.pure.label, pairing.target_comparisons
    if not target_comparisons:
        return "No level tells the two apart."
    ahead, behind = (
        [
            sum(costs_at_target[i].costs.leader == leader for costs_at_target in target_comparisons)
            for i in range(len(COSTS))
        ]
        for leader in (1, -1)
    )
    counts = [f"{count} by {cost.name}" for count, cost in zip(ahead, COSTS, strict=True)]
    return (
        f"Of {len(target_comparisons)} levels {ours} was ahead of {theirs} at {', '.join(counts)}, and behind at "
        f"{', '.join(map(str, behind))}."
    )


def _fairness(pairing: Pairing) -> str:
    others = [
        f"{field} ({ours} and {theirs})"
        for field, (ours, theirs) in differences(pairing.pure.experiment, pairing.residual.experiment).items()
        if field not in ("model.name", "seed")
    ]
    lengths = pairing.pure.curves[0].run.info.steps, pairing.residual.curves[0].run.info.steps
    if lengths[0] != lengths[1]:
        others.append(f"length ({lengths[0]} and {lengths[1]} steps)")
    return f"Their experiments differ in {', '.join(['the network', *others])}" + ("." if others else " alone.")


def _notes(groups: Sequence[Group]) -> str:
    curves = [curve for group in groups for curve in group.curves]
    images = sorted({curve.run.info.validation_images for curve in curves})
    finals = [(curve.averaged[-1]["top1_error"], curve.run.info.validation_images) for curve in curves]
    spread = max(math.sqrt(error * (1 - error) / count) for error, count in finals)
    alone = " One seed was run of each, so what another seed would change is not measured."
    unfinished = " A run that is not finished counts as one that never got there."
    return (
        f"Errors are measured on {' or '.join(f'{n:,}' for n in images)} validation images: one image is "
        f"{100 / images[0]:.2g} points, and the standard error of a run's final top-1 error at most {100 * spread:.2g}."
        f"{alone * (len(curves) == len(groups))}{unfinished * any(curve.progress for curve in curves)}"
    )
