"""The paper's two claims (section 4): the networks compared for each, and the criterion that decides it.

The answer is yes, no or undecided, by a 95 % Student's t interval over seeds (statistics.py: why not the bootstrap).
With fewer than `MIN_SEEDS` seeds it is always undecided.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from inception_jax.compare import tables
from inception_jax.compare.final_error import FinalError, at_equal_cost, final_errors
from inception_jax.compare.runs_to_groups import PAIRS, Group, best_of_each_network, common_seeds, pair_of
from inception_jax.compare.statistics import Estimate, estimate
from inception_jax.compare.time_to_error import (
    COSTS,
    EPOCHS,
    Cost,
    TargetComparison,
    compare_at_target,
    informative_targets,
    mean_log_ratio,
)
from inception_jax.config import differences

SAME = "same settings"
BEST = "best of sweep"

# Two experiments have the same settings if they differ in these fields only, which define the network.
_NETWORK_FIELDS = {"seed", "model.name", "model.depths", "model.residual_scales"}


@dataclasses.dataclass(frozen=True)
class Pairing:
    """A pure and a residual network of a pair in `PAIRS`, each with one setting."""

    pure: Group
    residual: Group
    reasons: tuple[str, ...]
    """`SAME`, `BEST` or both."""

    @property
    def label(self) -> str:
        """The labels of both networks."""
        return f"{self.pure.label} and {self.residual.label}"

    @functools.cached_property
    def seeds(self) -> list[int]:
        """Seeds that both networks were run with."""
        return common_seeds(self.pure, self.residual)

    @functools.cached_property
    def target_comparisons(self) -> list[list[TargetComparison]]:
        """One row per informative target error, with a comparison by each cost."""
        targets = informative_targets(self.pure.curves, self.residual.curves)
        return [[compare_at_target(self.pure, self.residual, target, cost) for cost in COSTS] for target in targets]

    @functools.cached_property
    def final_errors(self) -> list[FinalError]:
        """Final errors at equal cost."""
        return final_errors(self.pure, self.residual)

    def log_speed_up(self, cost: Cost = EPOCHS) -> Estimate | None:
        """Log speed-up, averaged over target errors and then common seeds; None without an informative target."""
        pairs = [(self.pure.by_seed[seed], self.residual.by_seed[seed]) for seed in self.seeds]
        if not any(informative_targets([pure], [residual]) for pure, residual in pairs):
            return None
        return estimate([mean_log_ratio(pure, residual, cost) for pure, residual in pairs])


def pairings_of(groups: Sequence[Group]) -> list[Pairing]:
    """Pairings of groups with the same settings, and of networks each at its best-of-sweep setting, in group order.

    The same architecture at other depths counts as another network.
    """
    best = best_of_each_network(groups)
    found = []
    for pair in PAIRS:
        members = [group for group in groups if pair_of(group.model) == pair]
        for pure in (group for group in members if not group.residual):
            for residual in (group for group in members if group.residual):
                same = set(differences(pure.experiment, residual.experiment)) <= _NETWORK_FIELDS
                own_best = pure in best and residual in best
                reasons = (SAME,) * same + (BEST,) * own_best
                if reasons:
                    found.append(Pairing(pure, residual, reasons))
    return found


MIN_SEEDS = 3

Answer = Literal["yes", "no", "undecided"]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Result of one comparison for a claim."""

    about: str
    """Labels of the compared groups."""
    answer: Answer
    estimate: Estimate | None
    """Quantity that the criterion compares with 0; None without common seeds."""
    seeds: list[int]
    words: str
    """The numbers as a phrase for the report."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim of the paper and its answer."""

    claim: str
    criterion: str
    answer: Answer
    evidence: list[Evidence]


def verdicts_of(pairings: Sequence[Pairing]) -> list[Verdict]:
    """Answers to both claims, from the networks at their best-of-sweep settings."""
    best = [pairing for pairing in pairings if BEST in pairing.reasons]
    pairs = [[pairing for pairing in best if pair_of(pairing.pure.model) == pair] for pair in PAIRS]
    speed = [speed_evidence(pairing) for pairing in best]
    size = [size_evidence(small, large) for small, large in itertools.product(*pairs)]
    return [
        Verdict("Residual connections make training much faster.", _SPEED_CRITERION, _common_answer(speed), speed),
        Verdict(
            "The final accuracy depends mainly on the size of the network.", _SIZE_CRITERION, _common_answer(size), size
        ),
    ]


_SPEED_CRITERION = (
    "Speed-up in epochs to target (pure / residual): for each seed the geometric mean over the target errors. Yes if "
    "its interval over seeds lies above a factor of 1, no if below. A run that never reached a target is "
    "right-censored at its total cost, which biases the speed-up towards 1."
)
_SIZE_CRITERION = (
    "Effect of size (Inception-v3 to v4, Inception-ResNet-v1 to v2) minus effect of the residual connections (within "
    "each pair), both as absolute differences of final top-1 error at equal epochs, in points. Yes if its interval "
    "lies above 0, no if below. In parentheses the signed effects: + means that the larger, or the residual, network "
    "is worse."
)


def speed_evidence(pairing: Pairing) -> Evidence:
    """Whether the residual network of a pairing trained faster."""
    difference = pairing.log_speed_up()
    if difference is None:
        why = "no target error separates the two" if pairing.seeds else "no common seed"
        return Evidence(pairing.label, "undecided", None, [], why)
    words = f"speed-up {tables.log_factor(difference)}{_unfinished([pairing.pure, pairing.residual])}"
    return Evidence(pairing.label, answer(difference), difference, pairing.seeds, words)


def size_evidence(small_pair: Pairing, large_pair: Pairing) -> Evidence:
    """Whether size affects the final error of four networks more than residual connections do; from finished runs."""
    groups = (small_pair.pure, small_pair.residual, large_pair.pure, large_pair.residual)
    about = "; ".join(group.label for group in groups)
    errors = {}
    for seed in common_seeds(*groups):
        curves = [group.by_seed[seed] for group in groups]
        equal = at_equal_cost(curves, EPOCHS)
        if equal and all(curve.run.finished for curve in curves):
            errors[seed] = [record["top1_error"] for record in equal[1]]
    unfinished = _unfinished(groups)
    if not errors:
        return Evidence(about, "undecided", None, [], f"no common seed that all four have finished{unfinished}")
    by_size, by_kind, difference = size_against_kind(np.array(list(errors.values())))
    small_pure, small_residual, large_pure, large_residual = np.mean(list(errors.values()), axis=0)
    signed = [large_pure - small_pure, large_residual - small_residual]
    signed += [small_residual - small_pure, large_residual - large_pure]
    pure, residual, small, large = map(tables.points, signed)
    words = (
        f"size {tables.percent(by_size)} points (pure {pure}, residual {residual}), residual connections "
        f"{tables.percent(by_kind)} points (small {small}, large {large}), difference "
        f"{tables.points(difference.mean)}{tables.bracketed(difference.interval, tables.points)}"
    )
    return Evidence(about, answer(difference), difference, list(errors), words + unfinished)


def size_against_kind(errors: np.ndarray) -> tuple[float, float, Estimate]:
    """Absolute effects of size and of residual connections, and their difference.

    Absolute values are taken of means over seeds, not of each seed, whose noise would count as an effect. Given the
    signs of the means, the difference is a mean over seeds and has a t interval. Absolute values bias small effects
    upwards, which shrinks the difference.

    Args:
      errors: [seeds, 4], in the order small pure, small residual, large pure, large residual.
    """
    small_pure, small_residual, large_pure, large_residual = errors.T
    size = np.stack([large_pure - small_pure, large_residual - small_residual])
    kind = np.stack([small_residual - small_pure, large_residual - large_pure])
    size, kind = ((np.sign(effects.mean(axis=1, keepdims=True)) * effects).mean(axis=0) for effects in (size, kind))
    return float(size.mean()), float(kind.mean()), estimate((size - kind).tolist())


def answer(difference: Estimate) -> Answer:
    """Yes if the interval lies above 0, no if below; undecided otherwise and with fewer than `MIN_SEEDS` seeds."""
    if difference.seeds < MIN_SEEDS or difference.interval is None:
        return "undecided"
    return "yes" if difference.interval[0] > 0 else "no" if difference.interval[1] < 0 else "undecided"


def _common_answer(evidence: Sequence[Evidence]) -> Answer:
    answers = {one.answer for one in evidence}
    return answers.pop() if len(answers) == 1 else "undecided"


def _unfinished(groups: Sequence[Group]) -> str:
    runs = [group.run_label(curve) for group in groups for curve in group.curves if not curve.run.finished]
    return f"; unfinished: {', '.join(runs)}" if runs else ""
