"""Time to target, intervals over seeds, final errors and claims, against SciPy and numbers computed by hand."""

import json
import math
import re

import numpy as np
import pytest
from compare_helpers import NETWORKS, curves, groups, write_run, write_seeds
from scipy import stats

from inception_jax import runs
from inception_jax.compare.claims import answer, pairings_of, size_against_kind, speed_evidence, verdicts_of
from inception_jax.compare.final_error import at_equal_cost, final_errors
from inception_jax.compare.records import as_json
from inception_jax.compare.statistics import bootstrap_medians, estimate, estimate_unpaired, interval, ratio_interval
from inception_jax.compare.tables import bracketed, factor
from inception_jax.compare.time_to_error import (
    COSTS,
    EPOCHS,
    CostPair,
    CostToTarget,
    compare_at_target,
    cost_to_target,
    informative_targets,
    mean_log_ratio,
)

SECONDS, MULTIPLY_ADDS = COSTS[1:]


@pytest.fixture
def pair(tmp_path):
    """A pure run of 20 s per epoch that never reaches 10 %, and a residual run of 25 s per epoch."""
    pure = write_run(tmp_path / "v4", "inception_v4", [0.8, 0.6, 0.4, 0.3, 0.2, 0.15], seconds=20.0)
    residual = write_run(tmp_path / "rv2", "inception_resnet_v2", [0.7, 0.4, 0.3, 0.1], seconds=25.0)
    return curves(pure, residual)


def test_targets_that_do_not_separate_the_runs_are_left_out(pair):
    # Both meet 90 and 80 % at the first evaluation, and neither reaches 7 %; 70 % is met at first by one only.
    assert informative_targets(pair[:1], pair[1:]) == [70, 60, 50, 40, 30, 20, 15, 10]


def test_cost_to_target_is_that_of_the_first_evaluation_at_or_below_it(pair):
    pure, residual = pair
    assert [cost_to_target(curve, 40, EPOCHS).value for curve in pair] == [3.0, 2.0]  # exactly 40 % counts
    assert [cost_to_target(curve, 50, EPOCHS).value for curve in pair] == [3.0, 2.0]  # not interpolated
    assert [cost_to_target(curve, 10, EPOCHS) for curve in pair] == [CostToTarget(6.0, False), CostToTarget(4.0, True)]
    assert [cost_to_target(curve, 30, SECONDS).value for curve in pair] == [80.0, 75.0]
    assert [cost_to_target(curve, 30, MULTIPLY_ADDS).value for curve in pair] == [24 * 10 * 200, 18 * 10 * 220]


def test_an_error_that_rises_again_counts_when_first_reached(tmp_path):
    (curve,) = curves(write_run(tmp_path / "v3", "inception_v3", [0.8, 0.3, 0.5, 0.3]))
    assert cost_to_target(curve, 30, EPOCHS) == CostToTarget(2.0, True)


def test_an_untrained_network_reaches_no_target(tmp_path):
    directories = [write_run(tmp_path / m, m, [0.95, 0.5]) for m in ("inception_v4", "inception_resnet_v2")]
    for directory in directories:
        path = directory / runs.METRICS
        first = {"step": 0, "epoch": 0.0, "split": "validation", "parameters": "averaged", "top1_error": 0.9}
        path.write_text(json.dumps({**first, "top5_error": 0.5, "seconds": 0.0}) + "\n" + path.read_text())
    pure, residual = curves(*directories)
    assert informative_targets([pure], [residual]) == [90, 80, 70, 60, 50]
    assert cost_to_target(pure, 90, EPOCHS) == CostToTarget(2.0, True)


@pytest.mark.parametrize(
    ("pure", "residual", "speed_up", "leader", "ratio"),
    [
        ((3.0, True), (2.0, True), "1.50", 1, 1.5),
        ((2.0, True), (3.0, True), "0.67", -1, 2 / 3),
        ((2.0, True), (2.0, True), "1.00", 0, 1),
        ((6.0, False), (4.0, True), "> 1.50", 1, 1.5),
        ((3.0, False), (4.0, True), "> 0.75", 0, 1),  # the pure run was too short to tell
        ((3.0, True), (6.0, False), "< 0.50", -1, 0.5),
        ((3.0, True), (2.0, False), "< 1.50", 0, 1),  # the residual run was too short to tell
        ((6.0, False), (6.0, False), "—", 0, 1),
        ((3.0, True), (0.0, True), "—", 1, 1),
    ],
)
def test_speed_up(pure, residual, speed_up, leader, ratio):
    costs = CostPair(CostToTarget(*pure), CostToTarget(*residual))
    assert (costs.speed_up, costs.leader, costs.log_ratio) == (speed_up, leader, pytest.approx(math.log(ratio)))


def test_a_group_is_compared_by_its_median_seed(tmp_path):
    # Epochs to 50 %: 2, 3 and more than 4 against 1, 2 and 2.
    pures = write_seeds(tmp_path, "inception_v4", [[0.8, 0.5, 0.5, 0.5], [0.8, 0.6, 0.5, 0.5], [0.8, 0.7, 0.6, 0.6]])
    residuals = write_seeds(tmp_path, "inception_resnet_v2", [[0.5], [0.6, 0.5], [0.7, 0.5]], steps=24)
    pure, residual = groups(*pures, *residuals)
    found = compare_at_target(pure, residual, 50, EPOCHS)
    assert found.costs == CostPair(CostToTarget(3.0, True), CostToTarget(2.0, True)) and found.costs.speed_up == "1.50"
    assert (found.pure, found.residual) == ((2.0, math.inf), (1.0, 2.0))
    # Each of 2/1, 3/2 and censored/2 fills one of 27 equally likely draws of three pairs; seeds stay paired.
    assert found.speed_up == (1.5, math.inf)
    assert bracketed(found.speed_up, factor) == " [1.50, ∞]"


def test_a_half_censored_group_gives_a_bound(tmp_path):
    pures = write_seeds(tmp_path, "inception_v4", [[0.8, 0.5, 0.5, 0.5], [0.8, 0.7, 0.6, 0.6]])
    residuals = write_seeds(tmp_path, "inception_resnet_v2", [[0.8, 0.5], [0.8, 0.5]])
    pure, residual = groups(*pures, *residuals)
    # One needed 2 epochs, the other more than 4, so the median is more than 3.
    costs = compare_at_target(pure, residual, 50, EPOCHS).costs
    assert costs == CostPair(CostToTarget(3.0, False), CostToTarget(2.0, True)) and costs.speed_up == "> 1.50"
    assert compare_at_target(pure, residual, 60, EPOCHS).costs.pure == CostToTarget(2.5, True)


def test_a_single_seed_has_no_interval(pair, tmp_path):
    pure, residual = groups(tmp_path / "v4", tmp_path / "rv2")
    found = compare_at_target(pure, residual, 40, EPOCHS)
    assert found.pure is found.residual is found.speed_up is None


def test_bootstrap_of_a_median_agrees_with_scipy():
    values = np.random.default_rng(3).normal(size=101)
    theirs = stats.bootstrap((values,), np.median, n_resamples=10_000, method="percentile", rng=0).confidence_interval
    assert interval(bootstrap_medians(values)) == pytest.approx(tuple(theirs), abs=0.03)


def test_bootstrap_of_three_values_agrees_with_all_27_draws():
    # The median of three draws from (1, 2, 3) is 1 or 3 in 7 of 27 each, 2 in 13 of 27.
    medians = bootstrap_medians([1.0, 2.0, 3.0])
    assert np.mean(medians == 1) == pytest.approx(7 / 27, abs=0.015)
    assert np.mean(medians == 2) == pytest.approx(13 / 27, abs=0.015)
    assert (medians == bootstrap_medians([1.0, 2.0, 3.0])).all()
    assert (medians != bootstrap_medians([1.0, 2.0, 3.0], stream=1)).any()


def test_the_ratio_of_paired_draws_has_a_narrower_interval():
    values = np.array([1.0, 5.0, 9.0, 40.0, 60.0])
    together = ratio_interval(bootstrap_medians(2 * values), bootstrap_medians(values))
    apart = ratio_interval(bootstrap_medians(2 * values), bootstrap_medians(values, stream=1))
    assert together == (2.0, 2.0) and apart[0] < 1 and apart[1] > 4


def test_a_ratio_of_infinities_is_unknown():
    assert ratio_interval(np.array([np.inf] * 10_000), np.array([np.inf] * 10_000)) == (0.0, np.inf)
    assert ratio_interval(np.array([np.inf] * 10_000), np.ones(10_000)) == (np.inf, np.inf)


def test_paired_difference_agrees_with_scipy():
    ours, theirs = np.random.default_rng(0).normal(size=(2, 5))
    found, test = estimate(list(ours - theirs)), stats.ttest_rel(ours, theirs)
    assert (found.mean, found.p, found.seeds) == (pytest.approx(np.mean(ours - theirs)), pytest.approx(test.pvalue), 5)
    assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_t_interval_by_hand():
    # Mean 2, deviation 1, standard error 1 / sqrt(3); Student's t of 2 degrees of freedom at 97.5 % is 4.3027.
    found = estimate([1.0, 2.0, 3.0])
    assert found.interval == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4)


def test_values_that_do_not_vary_have_no_p():
    found = estimate([0.1 + 0.2, 0.3, 0.3])  # Equal but for rounding.
    assert found.interval == (found.mean, found.mean) and found.p is None
    assert estimate([0.0, 0.0]).interval == (0.0, 0.0)
    assert estimate([0.5]).interval is None
    assert estimate_unpaired([0.5, 0.5], [0.25, 0.25]).p is None


def test_unpaired_difference_agrees_with_scipys_welch_test():
    ours, theirs = [1.0, 2.0, 4.0], [5.0, 5.5, 9.0, 7.0]
    found, test = estimate_unpaired(ours, theirs), stats.ttest_ind(ours, theirs, equal_var=False)
    assert (found.mean, found.p) == (pytest.approx(7 / 3 - 26.5 / 4), pytest.approx(test.pvalue))
    assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_equal_cost_takes_the_last_evaluation_within_the_smaller_budget(pair):
    for cost, budget, errors in ((EPOCHS, 4.0, [0.3, 0.1]), (SECONDS, 100.0, [0.2, 0.1])):
        found = at_equal_cost(pair, cost)
        assert found is not None and found[0] == budget
        assert [record["top1_error"] for record in found[1]] == errors


def test_a_cost_is_omitted_if_one_run_ended_before_the_others_first_evaluation(tmp_path):
    quick = write_run(tmp_path / "quick", "inception_v4", [0.5], seconds=1.0)
    slow = write_run(tmp_path / "slow", "inception_resnet_v2", [0.5], seconds=9.0)
    assert at_equal_cost(curves(quick, slow), SECONDS) is None
    # The multiply-adds of an image, 200 against 220, do not allow a comparison either.
    assert {final_error.cost.name for final_error in final_errors(*groups(quick, slow))} == {"epochs"}


def test_final_errors_are_compared_seed_by_seed(tmp_path):
    pures = write_seeds(tmp_path, "inception_v4", [[0.8, 0.30], [0.8, 0.20], [0.8, 0.10], [0.8, 0.05]])
    residuals = write_seeds(tmp_path, "inception_resnet_v2", [[0.8, 0.25], [0.8, 0.18], [0.8, 0.09]])
    first = final_errors(*groups(*pures, *residuals))[0]
    test = stats.ttest_rel([0.25, 0.18, 0.09], [0.30, 0.20, 0.10])
    assert (first.cost, first.error, first.paired, first.difference.seeds) == (EPOCHS, "top1_error", True, 3)
    assert (first.pure, first.residual) == (pytest.approx(0.2), pytest.approx(0.52 / 3))
    assert first.difference.p == pytest.approx(test.pvalue)


def test_without_common_seeds_welchs_test_is_used(tmp_path):
    pures = write_seeds(tmp_path, "inception_v4", [[0.8, 0.3], [0.8, 0.2]])
    residuals = [
        write_run(tmp_path / f"r{seed}", "inception_resnet_v2", [0.8, 0.1 + 0.01 * seed], seed=seed) for seed in (7, 8)
    ]
    first = final_errors(*groups(*pures, *residuals))[0]
    assert not first.paired
    assert first.difference.p == pytest.approx(stats.ttest_ind([0.17, 0.18], [0.3, 0.2], equal_var=False).pvalue)


def falling(epochs, length=12):
    """Errors that fall to 50 % after `epochs`, and to 20 % after twice as many."""
    return [0.95 if k < epochs else 0.5 if k < 2 * epochs else 0.2 for k in range(1, length + 1)]


def speed(tmp_path, pure, residual):
    """Verdict on the first claim, from the epochs that each seed needs."""
    directories = write_seeds(tmp_path, "inception_v4", [falling(n) for n in pure])
    directories += write_seeds(tmp_path, "inception_resnet_v2", [falling(n) for n in residual])
    return verdicts_of(pairings_of(groups(*directories)))[0]


@pytest.mark.parametrize(
    ("pure", "residual", "expected"),
    [
        ((4, 4, 5), (2, 2, 2), "yes"),
        ((2, 2, 2), (4, 4, 5), "no"),
        ((2, 4, 3), (4, 2, 3), "undecided"),
        ((4, 5), (2, 2), "undecided"),  # two seeds are too few
        ((4, 2, 3), (3, 1, 3), "undecided"),  # faster in two of three
    ],
)
def test_whether_residual_networks_are_faster(tmp_path, pure, residual, expected):
    verdict = speed(tmp_path, pure, residual)
    assert verdict.answer == verdict.evidence[0].answer == expected and "faster" in verdict.claim


def test_the_speed_up_is_the_geometric_mean_over_targets_and_seeds(tmp_path):
    (evidence,) = speed(tmp_path, (4, 4, 6), (2, 2, 2)).evidence
    assert math.exp(evidence.estimate.mean) == pytest.approx((2 * 2 * 3) ** (1 / 3))
    logs = np.log([2, 2, 3])
    half = 4.3027 * logs.std(ddof=1) / math.sqrt(3)
    low, high = np.exp(logs.mean() - half), np.exp(logs.mean() + half)
    assert f"2.29 [{low:.2f}, {high:.2f}]" in evidence.words


def test_a_run_that_never_reaches_a_target_is_censored_at_its_total_cost(tmp_path):
    # To 90, 80, ... 50 %: 8 against 2 epochs. To 40, 30 and 20 %: more than 12 against 4. So 4 five times, 3 thrice.
    pure, residual = curves(
        write_run(tmp_path / "p", "inception_v4", falling(8)),
        write_run(tmp_path / "r", "inception_resnet_v2", falling(2)),
    )
    assert math.exp(mean_log_ratio(pure, residual, EPOCHS)) == pytest.approx((4**5 * 3**3) ** (1 / 8))
    assert mean_log_ratio(pure, pure, EPOCHS) == 0


def test_runs_that_reach_no_target_have_no_speed_up(tmp_path):
    flat = [0.95] * 4
    directories = [write_run(tmp_path / name, name, flat) for name in ("inception_v4", "inception_resnet_v2")]
    (pairing,) = pairings_of(groups(*directories))
    assert pairing.log_speed_up() is None
    assert "no target" in speed_evidence(pairing).words


def test_without_common_seeds_the_answer_is_undecided(tmp_path):
    directories = write_seeds(tmp_path, "inception_v4", [falling(4)] * 3)
    directories += [
        write_run(tmp_path / f"r{seed}", "inception_resnet_v2", falling(2), seed=seed) for seed in (5, 6, 7)
    ]
    (pairing,) = pairings_of(groups(*directories))
    assert speed_evidence(pairing).answer == "undecided" and "no common seed" in speed_evidence(pairing).words


def test_both_pairs_must_agree(tmp_path):
    fast = [falling(4)] * 3, [falling(2)] * 3
    directories = [
        directory
        for model, errors in zip(NETWORKS, (*fast, *fast[::-1]), strict=True)
        for directory in write_seeds(tmp_path, model, errors)
    ]
    verdict = verdicts_of(pairings_of(groups(*directories)))[0]
    assert [evidence.answer for evidence in verdict.evidence] == ["yes", "no"] and verdict.answer == "undecided"


def size(tmp_path, finals, **options):
    """Verdict on the second claim, from the final errors of each network's seeds."""
    directories = [
        directory
        for model, errors in zip(NETWORKS, finals, strict=True)
        for directory in write_seeds(tmp_path, model, [[0.9, error] for error in errors], **options)
    ]
    return verdicts_of(pairings_of(groups(*directories)))[1]


@pytest.mark.parametrize(
    ("finals", "expected"),
    [
        (((0.21, 0.22, 0.21), (0.21, 0.21, 0.22), (0.1, 0.11, 0.11), (0.1, 0.1, 0.11)), "yes"),
        (((0.21, 0.22, 0.21), (0.1, 0.11, 0.1), (0.22, 0.21, 0.21), (0.1, 0.1, 0.11)), "no"),
        (((0.2, 0.3, 0.1), (0.1, 0.3, 0.2), (0.2, 0.1, 0.3), (0.1, 0.2, 0.3)), "undecided"),
        (((0.21, 0.22), (0.21, 0.21), (0.1, 0.11), (0.1, 0.1)), "undecided"),
    ],
)
def test_whether_size_decides_the_final_error(tmp_path, finals, expected):
    assert size(tmp_path, finals).answer == expected


def test_the_evidence_has_signed_effects(tmp_path):
    # The larger pure network is 20 points worse, the larger residual one 1 point better.
    words = size(tmp_path, ((0.3,) * 3, (0.25,) * 3, (0.5,) * 3, (0.24,) * 3)).evidence[0].words
    assert re.findall(r"[+-]?\d+\.\d\d", words)[:6] == ["10.50", "+20.00", "-1.00", "15.50", "-5.00", "-26.00"]


def test_size_against_kind_by_hand():
    # Small pure, small residual, large pure, large residual. Size: -10 and -6 points; residual connections: -4 and 0.
    errors = np.array([[0.30, 0.26, 0.20, 0.20], [0.32, 0.28, 0.22, 0.22]])
    by_size, by_kind, found = size_against_kind(errors)
    assert (by_size, by_kind, found.mean) == (pytest.approx(0.08), pytest.approx(0.02), pytest.approx(0.06))
    # The residual effect is +4 in one seed and -4 in the other: noise, not an effect of 4 points.
    noise = np.array([[0.30, 0.34, 0.20, 0.24], [0.34, 0.30, 0.24, 0.20]])
    assert size_against_kind(noise)[1] == pytest.approx(0)


def test_size_needs_all_four_networks_and_finished_runs(tmp_path, pair):
    verdict = verdicts_of(pairings_of(groups(tmp_path / "v4", tmp_path / "rv2")))[1]
    assert (verdict.answer, verdict.evidence) == ("undecided", [])
    verdict = size(tmp_path / "four", (((0.2,) * 3,) * 4), steps=60)
    assert "no common seed" in verdict.evidence[0].words and "unfinished" in verdict.evidence[0].words


def test_answers():
    assert answer(estimate([1.0, 1.1, 0.9])) == "yes"
    assert answer(estimate([-1.0, -1.1, -0.9])) == "no"
    assert answer(estimate([1.0, 1.1, -0.9])) == "undecided"
    assert answer(estimate([1.0, 1.1])) == answer(estimate([1.0])) == "undecided"


def test_json_has_the_numbers_without_infinities(tmp_path):
    directories = write_seeds(tmp_path, "inception_v4", [falling(4), falling(4), falling(7)])
    directories += write_seeds(tmp_path, "inception_resnet_v2", [falling(2)] * 3)
    pairings = pairings_of(groups(*directories))
    values = json.loads(as_json(verdicts_of(pairings), pairings), parse_constant=pytest.fail)
    assert [verdict["answer"] for verdict in values["verdicts"]] == ["yes", "undecided"]
    (pair,) = values["pairs"]
    assert pair["seeds"] == [0, 1, 2] and pair["speed_up"]["epochs"]["seeds"] == 3
    to_20 = next(race for race in pair["races"] if race["level"] == 20)["epochs"]
    assert to_20["pure"] == {"median": 8.0, "at_least": 8.0, "interval": [8.0, None]}  # One seed never reached it.
    assert to_20["speed_up"] == {"ratio": 2.0, "words": "2.00", "interval": [2.0, None]}
    assert pair["differences"][0]["difference"]["mean"] == pytest.approx(-0.1)
