"""The paper's two claims (section 4), the networks compared for each, and the criterion that decides it.

Answers are yes, no or undecided. What decides is a Student's t interval of 95 % over seeds: statistics.py says why it
is not the bootstrap's. Fewer than `MIN_SEEDS` seeds decide nothing, whatever they look like.
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
BEST = "each at its own best"

# Settings are the same where no field but these differs: they are the network itself.
_THE_NETWORK = {"seed", "model.name", "model.depths", "model.residual_scales"}


@dataclasses.dataclass(frozen=True)
class Pairing:
    """A pure and a residual network of a pair in `PAIRS`, each at one setting."""

    pure: Group
    residual: Group
    reasons: tuple[str, ...]
    """`SAME`, `BEST` or both."""

    @property
    def label(self) -> str:
        """Both labels."""
        return f"{self.pure.label} and {self.residual.label}"

    @functools.cached_property
    def seeds(self) -> list[int]:
        """The seeds that both were run with."""
        return common_seeds(self.pure, self.residual)

    @functools.cached_property
    def target_comparisons(self) -> list[list[TargetComparison]]:
        """For each informative target error a comparison by each cost."""
        found = informative_targets(self.pure.curves, self.residual.curves)
        return [[compare_at_target(self.pure, self.residual, target, cost) for cost in COSTS] for target in found]

    @functools.cached_property
    def final_errors(self) -> list[FinalError]:
        """The final errors at equal costs."""
        return final_errors(self.pure, self.residual)

    def log_speed_up(self, cost: Cost = EPOCHS) -> Estimate | None:
        """Mean over the common seeds of the mean log speed-up over the target errors; None where no seed has any."""
        pairs = [(self.pure.by_seed[seed], self.residual.by_seed[seed]) for seed in self.seeds]
        if not any(informative_targets([pure], [residual]) for pure, residual in pairs):
            return None
        return estimate([mean_log_ratio(pure, residual, cost) for pure, residual in pairs])


def pairings_of(groups: Sequence[Group]) -> list[Pairing]:
    """Every two groups of a pair at the same settings, and every two networks of it each at its own best setting.

    A network at other depths is another network here. In the order of the groups.
    """
    best = best_of_each_network(groups)
    found = []
    for pair in PAIRS:
        members = [group for group in groups if pair_of(group.model) == pair]
        for pure in (group for group in members if not group.residual):
            for residual in (group for group in members if group.residual):
                same = set(differences(pure.experiment, residual.experiment)) <= _THE_NETWORK
                own_best = pure in best and residual in best
                reasons = (SAME,) * same + (BEST,) * own_best
                if reasons:
                    found.append(Pairing(pure, residual, reasons))
    return found


MIN_SEEDS = 3

Answer = Literal["yes", "no", "undecided"]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The result of one comparison for a claim."""

    about: str
    """The groups."""
    answer: Answer
    estimate: Estimate | None
    """Estimate of the quantity that the criterion compares with 0; None without common seeds."""
    seeds: list[int]
    words: str
    """The numbers in a sentence without an end."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One claim and its answer."""

    claim: str
    criterion: str
    answer: Answer
    evidence: list[Evidence]


def verdicts_of(pairings: Sequence[Pairing]) -> list[Verdict]:
    """The answers to both claims, from the networks each at its own best setting."""
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
    "For each seed, the mean over the errors raced to of the logarithm of the speed-up in epochs (pure / residual). "
    "Yes if its interval lies above a factor of 1, no if below; the factor says how much faster. A network that never "
    "got to an error counts with what it had spent, which makes the factor err towards 1, whichever is ahead."
)
_SIZE_CRITERION = (
    "The difference that size makes (Inception-v3 to v4, Inception-ResNet-v1 to v2) less the difference that the "
    "residual connections make within the two pairs, both in points of final top-1 error at equal epochs, without "
    "their signs. Yes if its interval lies above 0, no if below. In brackets with their signs: + is a larger network, "
    "or a residual one, that is worse, which counts as an effect all the same."
)


def speed_evidence(pairing: Pairing) -> Evidence:
    """Whether the residual network of a pairing came down faster."""
    difference = pairing.log_speed_up()
    if difference is None:
        why = "no error that tells the two apart" if pairing.seeds else "no seed in common"
        return Evidence(pairing.label, "undecided", None, [], why)
    words = f"speed-up {tables.log_factor(difference)}{_unfinished([pairing.pure, pairing.residual])}"
    return Evidence(pairing.label, answer(difference), difference, pairing.seeds, words)


def size_evidence(small: Pairing, large: Pairing) -> Evidence:
    """Whether size decides the final error of four networks more than their kind; from seeds whose runs are done."""
    groups = (small.pure, small.residual, large.pure, large.residual)
    about = "; ".join(group.label for group in groups)
    errors = {}
    for seed in common_seeds(*groups):
        curves = [group.by_seed[seed] for group in groups]
        equal = at_equal_cost(curves, EPOCHS)
        if equal and all(curve.run.finished for curve in curves):
            errors[seed] = [record["top1_error"] for record in equal[1]]
    left_out = _unfinished(groups)
    if not errors:
        return Evidence(about, "undecided", None, [], f"no seed in common that all four have finished{left_out}")
    by_size, by_kind, difference = size_against_kind(np.array(list(errors.values())))
    small_pure, small_residual, large_pure, large_residual = np.mean(list(errors.values()), axis=0)
    signed = [large_pure - small_pure, large_residual - small_residual]
    signed += [small_residual - small_pure, large_residual - large_pure]
    pure, residual, of_small, of_large = map(tables.points, signed)
    words = (
        f"size {tables.percent(by_size)} points (pure {pure}, residual {residual}), kind {tables.percent(by_kind)} "
        f"(small {of_small}, large {of_large}), the one less the other {tables.points(difference.mean)}"
        f"{tables.bracketed(difference.interval, tables.points)}"
    )
    return Evidence(about, answer(difference), difference, list(errors), words + left_out)


def size_against_kind(errors: np.ndarray) -> tuple[float, float, Estimate]:
    """Errors [seeds, (small pure, small residual, large pure, large residual)] -> by size, by kind, their difference.

    Signs are taken off the means over seeds and not off each seed, whose noise would then count as an effect. With
    the signs of the means given, the difference is a mean over seeds, and has a t interval as such. Absolute values
    bias small effects upwards, which shrinks the difference.
    """
    small_pure, small_residual, large_pure, large_residual = errors.T
    size = np.stack([large_pure - small_pure, large_residual - small_residual])
    kind = np.stack([small_residual - small_pure, large_residual - large_pure])
    size, kind = ((np.sign(effects.mean(axis=1, keepdims=True)) * effects).mean(axis=0) for effects in (size, kind))
    return float(size.mean()), float(kind.mean()), estimate((size - kind).tolist())


def answer(difference: Estimate) -> Answer:
    """Yes when the whole interval is above 0, no when it is below, undecided otherwise and with few seeds."""
    if difference.seeds < MIN_SEEDS or difference.interval is None:
        return "undecided"
    return "yes" if difference.interval[0] > 0 else "no" if difference.interval[1] < 0 else "undecided"


def _common_answer(evidence: Sequence[Evidence]) -> Answer:
    answers = {one.answer for one in evidence}
    return answers.pop() if len(answers) == 1 else "undecided"


def _unfinished(groups: Sequence[Group]) -> str:
    runs = [group.run_label(curve) for group in groups for curve in group.curves if not curve.run.finished]
    return f"; not finished: {', '.join(runs)}" if runs else ""
