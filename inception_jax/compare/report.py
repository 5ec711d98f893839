"""comparison.md: the paper's claims with their answers, the runs, and a section for each pair of networks."""

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
    groups: Sequence[Group], unevaluated: Sequence[Curve], pairings: Sequence[Pairing], verdicts: Sequence[Verdict]
) -> str:
    """The report; `unevaluated` are runs without any evaluation."""
    blocks = ["# Comparison"]
    if pairings:
        blocks += ["## The paper's claims", *map(_verdict, verdicts), _CLAIMS_NOTE]
    blocks += ["## Runs", "![Validation error over epochs](curves.png)", _RUNS_NOTE, _runs_table(groups)]
    if unevaluated:
        names = ", ".join(f"{curve.run.directory}{curve.progress}" for curve in unevaluated)
        blocks.append(f"Not evaluated yet, so left out: {names}.")
    if pairings:
        blocks += ["## Pairs", _PAIRS_NOTE, _pairs_table(pairings)]
    for pairing in pairings:
        blocks += _section(pairing)
    return "\n\n".join([*blocks, "## Notes", _notes(groups) + _TARGETS_NOTE * bool(pairings)]) + "\n"


_CLAIMS_NOTE = (
    "Intervals are 95 % Student's t intervals over the seeds that all compared runs share. With 3 seeds only "
    "differences far larger than those between seeds are detected, so undecided does not mean that there is no "
    "difference; fewer than 3 seeds decide nothing. Each network has its best-of-sweep setting: that of the given ones "
    "with the lowest median final top-1 error, whatever its width and image size, selected on the same validation "
    "images. A claim is answered yes or no only if all comparisons under it agree."
)
_RUNS_NOTE = (
    "Single-crop validation error in percent, of the averaged parameters unless marked raw, as in Figures 21-26 of "
    "arXiv 1602.07261; for several seeds median [minimum, maximum]. A logarithmic axis shows an error of zero at its "
    "lower end."
)
_PAIRS_NOTE = (
    "Speed-up: cost to target, pure / residual, as the geometric mean over target errors and then common seeds, with a "
    "95 % t interval. Difference: final top-1 error at equal epochs, residual minus pure, in points, by a t test. "
    "Nothing is corrected for multiple comparisons: about one in twenty true zeros differs from zero by chance."
)
_TARGETS_NOTE = (
    " The cost to a target error is that of the first evaluation at or below it, not interpolated: the median over "
    "seeds, or — if half or more of the seeds never reached the target. Speed-up is pure / residual, a bound ('> x' or "
    "'< x') if only one of the two reached the target. Brackets are percentile intervals of 10,000 bootstrap resamples "
    "of the seeds, which are too narrow with few seeds; ∞ marks a right-censored end. Final errors are means over "
    "seeds, compared by a paired t test; at equal cost each run counts with its last evaluation within the smaller "
    "total cost. Multiply-adds are training images seen x forward multiply-adds per image."
)


def _verdict(verdict: Verdict) -> str:
    lines = [
        f"- {one.about}: {one.words} ({tables.pluralize(len(one.seeds), 'seed')}): {one.answer}"
        for one in verdict.evidence
    ]
    if not lines:
        lines = ["- not all networks of this claim are among the runs"]
    return "\n".join([f"**{verdict.claim} {verdict.answer.capitalize()}.** {verdict.criterion}", "", *lines])


def _runs_table(groups: Sequence[Group]) -> str:
    header = "network|kind|parameters|multiply-adds per image|learning rate|epochs|final top-1|best top-1 (epoch)"
    header += "|final top-5|best top-5 (epoch)|final raw top-1|wall time|images/s"
    return tables.markdown_table(header.split("|"), [_runs_row(group) for group in groups])


def _runs_row(group: Group) -> list[str]:
    rows = [summary_row(curve, "") for curve in group.curves]

    def median(field: str) -> Any:
        values = [row[field] for row in rows if row[field] is not None]
        return statistics.median(values) if values else None

    def median_and_range(field: str) -> str:
        values = [row[field] for row in rows if row[field] is not None]
        limits = (min(values), max(values)) if len(values) > 1 else None
        return tables.percent(median(field)) + tables.bracketed(limits, tables.percent)

    def best(error: str) -> str:
        found = median(f"best_{error}_error")
        return tables.percent(found) + (
            f" ({tables.number(median(f'best_{error}_epoch'))})" if found is not None else ""
        )

    speed = median("images_per_second")
    return [
        group.title,
        rows[0]["kind"],
        tables.quantity(rows[0]["parameters"]),
        tables.quantity(rows[0]["multiply_adds"]),
        f"{rows[0]['learning_rate']:g}",
        tables.number(median("epochs")),
        median_and_range("final_top1_error"),
        best("top1"),
        median_and_range("final_top5_error"),
        best("top5"),
        tables.percent(median("final_raw_top1_error")),
        tables.duration(median("wall_seconds")),
        tables.MISSING if speed is None else tables.number(speed),
    ]


def _pairs_table(pairings: Sequence[Pairing]) -> str:
    header = ["pair", "compared at", "common seeds", *(f"speed-up, {cost.name}" for cost in COSTS)]
    header += ["residual faster by epochs", "difference", "p"]
    rows = []
    for pairing in pairings:
        by_epochs = pairing.log_speed_up()
        final = next((e for e in pairing.final_errors if (e.cost, e.error) == (EPOCHS, "top1_error")), None)
        rows.append(
            [
                pairing.label,
                ", ".join(pairing.reasons),
                str(len(pairing.seeds)),
                *(tables.log_factor(pairing.log_speed_up(cost)) for cost in COSTS),
                answer(by_epochs) if by_epochs else "undecided",
                *(_difference(final.difference) if final else [tables.MISSING] * 2),
            ]
        )
    return tables.markdown_table(header, rows)


def _difference(found: Estimate) -> list[str]:
    return [tables.points(found.mean) + tables.bracketed(found.interval, tables.points), tables.p_value(found.p)]


def _section(pairing: Pairing) -> list[str]:
    """Heading, tables and notes of a pair."""
    blocks = [f"### {pairing.pure.title} and {pairing.residual.title}"]
    if pairing.target_comparisons:
        blocks.append(_targets_table(pairing.target_comparisons))
    if pairing.final_errors:
        blocks.append(_final_errors_table(pairing.final_errors))
    sentences = [_first_to_target(pairing), _settings(pairing)]
    if not pairing.seeds:
        sentences.append("They have no common seed, so Welch's t test replaces the paired one.")
    return [*blocks, " ".join(sentences)]


def _targets_table(target_comparisons: Sequence[Sequence[TargetComparison]]) -> str:
    header = ["target top-1 error"]
    for cost in COSTS:
        header += [f"{cost.name}, pure", f"{cost.name}, residual", "speed-up"]
    rows = []
    for by_cost in target_comparisons:
        row = [f"{by_cost[0].target} %"]
        for comparison in by_cost:
            costs, format = comparison.costs, comparison.cost.format
            for cost_to_target, interval in ((costs.pure, comparison.pure), (costs.residual, comparison.residual)):
                value = format(cost_to_target.value) if cost_to_target.reached else tables.MISSING
                row.append(value + tables.bracketed(interval, format))
            row.append(costs.speed_up + tables.bracketed(comparison.speed_up, tables.factor))
        rows.append(row)
    return tables.markdown_table(header, rows)


def _final_errors_table(final_errors: Sequence[FinalError]) -> str:
    header = ["at equal", "budget", "final error", "pure", "residual", "difference", "p", "seeds"]
    rows = []
    for final_error in final_errors:
        budget = dict.fromkeys(final_error.cost.format(end) for end in final_error.budget)
        rows.append(
            [
                final_error.cost.name,
                " to ".join(budget),
                final_error.error.replace("_error", "").replace("top", "top-"),
                tables.percent(final_error.pure),
                tables.percent(final_error.residual),
                *_difference(final_error.difference),
                str(final_error.difference.seeds),
            ]
        )
    return tables.markdown_table(header, rows)


def _first_to_target(pairing: Pairing) -> str:
    comparisons = pairing.target_comparisons
    if not comparisons:
        return "No target error separates the two."
    # For each cost, the leader at each target error.
    leaders = [[comparison.costs.leader for comparison in column] for column in zip(*comparisons, strict=True)]
    ahead = ", ".join(f"{column.count(1)} by {cost.name}" for column, cost in zip(leaders, COSTS, strict=True))
    behind = ", ".join(f"{column.count(-1)}" for column in leaders)
    return (
        f"Of {tables.pluralize(len(comparisons), 'target error')}, {pairing.residual.label} reached first {ahead}; "
        f"{pairing.pure.label} reached first {behind}."
    )


def _settings(pairing: Pairing) -> str:
    others = [
        f"{field} ({ours} and {theirs})"
        for field, (ours, theirs) in differences(pairing.pure.experiment, pairing.residual.experiment).items()
        if field not in ("model.name", "seed")
    ]
    lengths = pairing.pure.curves[0].run.info.steps, pairing.residual.curves[0].run.info.steps
    if lengths[0] != lengths[1]:
        others.append(f"length ({lengths[0]} and {lengths[1]} steps)")
    return f"Their experiments differ {'in' if others else 'only in'} {', '.join(['the network', *others])}."


def _notes(groups: Sequence[Group]) -> str:
    curves = [curve for group in groups for curve in group.curves]
    images = sorted({curve.run.info.validation_images for curve in curves})
    finals = [(curve.averaged[-1]["top1_error"], curve.run.info.validation_images) for curve in curves]
    standard_error = max(math.sqrt(error * (1 - error) / count) for error, count in finals)
    one_seed = " Each setting was run with one seed, so the variation between seeds is unknown."
    unfinished = " An unfinished run is right-censored at its last evaluation."
    return (
        f"Errors are measured on {' or '.join(f'{n:,}' for n in images)} validation images: one image is "
        f"{100 / images[0]:.2g} points, and the standard error of a run's final top-1 error is at most "
        f"{100 * standard_error:.2g} points.{one_seed * (len(curves) == len(groups))}"
        f"{unfinished * any(curve.progress for curve in curves)}"
    )
