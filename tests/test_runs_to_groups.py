"""Groups of runs, their order, labels and line styles, and the band over a group's seeds."""

import pytest
from compare_helpers import NETWORKS, groups, write_run, write_seeds

from inception_jax.compare.claims import BEST, SAME, pairings_of
from inception_jax.compare.figures import _styles, figure_rows
from inception_jax.compare.runs_to_groups import best_of_each_network, common_seeds
from inception_jax.compare.statistics import Point, band


def labels(*directories):
    return [group.label for group in groups(*directories)]


def test_runs_that_differ_only_in_their_seed_are_one_group(tmp_path):
    directories = write_seeds(tmp_path, "inception_v4", [[0.5], [0.4], [0.3]])
    (group,) = groups(directories[2], directories[0], directories[1])
    assert [curve.seed for curve in group.curves] == [0, 1, 2]
    assert (group.label, group.title, group.final_top1) == ("Inception-v4", "Inception-v4 (3 seeds)", 0.4)
    assert group.run_label(group.curves[1]) == "Inception-v4, seed 1"


def test_settings_that_change_no_number_do_not_separate_runs(tmp_path):
    one = write_run(tmp_path / "a", "inception_v4", [0.5], seed=0, train={"log_every": 9}, data={"threads": 2})
    two = write_run(tmp_path / "b", "inception_v4", [0.5], seed=1, train={"log_every": 5}, data={"threads": 1})
    (group,) = groups(one, two)
    assert list(group.by_seed) == [0, 1]


def test_a_repeated_seed_and_another_length_are_other_groups(tmp_path):
    one = write_run(tmp_path / "one", "inception_v4", [0.5, 0.4], name="first")
    again = write_run(tmp_path / "two", "inception_v4", [0.5, 0.4], name="second")
    longer = write_run(tmp_path / "three", "inception_v4", [0.5, 0.4, 0.3], seed=1, name="third")
    assert labels(longer, again, one) == ["Inception-v4, first", "Inception-v4, second", "Inception-v4, third"]


def test_the_order_is_that_of_the_paper(tmp_path):
    names = (*NETWORKS, "another_net")
    directories = [write_run(tmp_path / name, name, [0.5]) for name in names]
    expected = [*("Inception-v3", "Inception-ResNet-v1", "Inception-v4", "Inception-ResNet-v2", "another-net")]
    assert labels(*directories) == labels(*directories[::-1]) == expected


def test_groups_of_a_network_are_labelled_and_sorted_by_setting(tmp_path):
    rates = (0.0045, 1e-08, 0.1)
    runs = [write_run(tmp_path / f"{r}", "inception_v4", [0.5], optim={"learning_rate": r}) for r in rates]
    assert labels(*runs) == ["Inception-v4, rate 1e-08", "Inception-v4, rate 0.0045", "Inception-v4, rate 0.1"]


def test_an_ablation_is_labelled_by_the_changed_settings(tmp_path):
    changes = (
        *({}, {"rms_epsilon": 1e-8}, {"clip_norm": None}, {"momentum": 0.0, "epsilon_in_sqrt": False}),
        {"name": "adamw", "learning_rate": 0.001},
    )
    runs = [write_run(tmp_path / f"{i}", "inception_v4", [0.5], optim=change) for i, change in enumerate(changes)]
    assert sorted(labels(*runs)) == [
        "Inception-v4",
        "Inception-v4, clip_norm None",
        "Inception-v4, epsilon_in_sqrt False, momentum 0",
        "Inception-v4, optimiser adamw, rate 0.001",
        "Inception-v4, rms_epsilon 1e-08",
    ]


def test_more_than_two_settings_are_labelled_by_run_name_without_seed(tmp_path):
    far = {"momentum": 0.0, "rms_decay": 0.5, "decay_rate": 0.5}
    near = write_seeds(tmp_path / "near", "inception_v4", [[0.5], [0.5]])
    runs = [
        write_run(tmp_path / name, "inception_v4", [0.5], seed=seed, name=name, optim=far)
        for seed, name in ((3, "far-seed3"), (4, "far-seed4"))
    ]
    assert sorted(labels(*runs, *near)) == ["Inception-v4, far", "Inception-v4, inception_v4"]
    assert sorted(labels(runs[0], *near)) == ["Inception-v4, far-seed3", "Inception-v4, inception_v4"]


def test_depths_are_part_of_the_network(tmp_path):
    own = write_run(tmp_path / "own", "inception_resnet_v2", [0.5])
    deep = write_run(tmp_path / "deep", "inception_resnet_v2", [0.4], model={"depths": (10, 20, 10)})
    assert labels(own, deep) == ["Inception-ResNet-v2", "Inception-ResNet-v2 (10/20/10)"]
    assert len(best_of_each_network(groups(own, deep))) == 2


def test_runs_of_the_same_name_are_labelled_by_directory(tmp_path):
    names = [("a", "one", "n"), ("a", "two", "n"), ("b", "one", "n")]
    by_directory = [write_run(tmp_path / up / d, "inception_v3", [0.5], name=n) for up, d, n in names]
    assert labels(*by_directory[:2]) == ["Inception-v3, one", "Inception-v3, two"]
    assert labels(*by_directory) == [f"Inception-v3, {directory}" for directory in by_directory]


def test_a_band_has_median_minimum_and_maximum():
    seeds = [{1.0: 0.9, 2.0: 0.5, 3.0: 0.3}, {1.0: 0.7, 2.0: 0.6, 3.0: 0.1}, {1.0: 0.8, 2.0: 0.1}]
    assert band(seeds) == [
        Point(1.0, 0.8, 0.7, 0.9, 3),
        Point(2.0, 0.5, 0.1, 0.6, 3),
        Point(3.0, pytest.approx(0.2), 0.1, 0.3, 2),
    ]


def test_a_band_ends_where_fewer_than_half_of_the_seeds_are_left():
    assert [point.x for point in band([{1: 0.5, 2: 0.4, 3: 0.3}, {1: 0.5, 2: 0.4}, {1: 0.5}])] == [1, 2]
    assert [point.x for point in band([{1: 0.5, 2: 0.4}, {1: 0.5}])] == [1, 2]


def test_pairs_have_the_same_settings_or_the_best_of_the_sweep(tmp_path):
    directories = [
        write_run(tmp_path / f"{model}-{rate}", model, [last], optim={"learning_rate": rate})
        for model, lasts in (("inception_v4", (0.4, 0.3)), ("inception_resnet_v2", (0.1, 0.2)))
        for rate, last in zip((0.01, 0.1), lasts, strict=True)
    ]
    wider = write_run(
        tmp_path / "wide", "inception_resnet_v2", [0.5], optim={"learning_rate": 0.01}, model={"width": 2.0}
    )
    found = {(p.pure.label, p.residual.label): p.reasons for p in pairings_of(groups(*directories, wider))}
    assert found == {
        ("Inception-v4, rate 0.01", "Inception-ResNet-v2"): (SAME,),  # 0.01 is the most common rate
        ("Inception-v4, rate 0.1", "Inception-ResNet-v2, rate 0.1"): (SAME,),
        ("Inception-v4, rate 0.1", "Inception-ResNet-v2"): (BEST,),
    }


def test_depths_and_scales_do_not_count_as_settings_of_a_pair(tmp_path):
    pure = write_run(tmp_path / "v4", "inception_v4", [0.5])
    changes = ({}, {"depths": (10, 20, 10)}, {"residual_scales": (1.0,)})
    others = [write_run(tmp_path / f"{i}", "inception_resnet_v2", [0.4], model=m) for i, m in enumerate(changes)]
    found = pairings_of(groups(pure, *others))
    assert [pairing.reasons for pairing in found] == [(SAME, BEST), (SAME,), (SAME, BEST)]


def test_common_seeds(tmp_path):
    one = write_seeds(tmp_path / "one", "inception_v4", [[0.5], [0.4], [0.3]])
    two = write_seeds(tmp_path / "two", "inception_resnet_v2", [[0.5], [0.4], [0.3], [0.2]])
    assert common_seeds(*groups(*one[1:], *two)) == [1, 2]


def test_twelve_lines_of_one_network_have_distinct_styles(tmp_path):
    directories = [
        write_run(tmp_path / f"{n}", "a_net", [0.5], optim={"learning_rate": 0.01 * n}) for n in range(1, 13)
    ]
    (styles,) = _styles(figure_rows(groups(*directories)))
    assert len({(line["color"], line["marker"]) for line in styles.values()}) == 12


def test_the_best_group_of_a_network_has_the_same_style_in_every_row(tmp_path):
    directories = [
        write_run(tmp_path / f"{model}-{rate}", model, [rate], optim={"learning_rate": rate})
        for model in NETWORKS
        for rate in (0.9, 0.1)
    ]
    *pairs, together = _styles(figure_rows(groups(*directories)))
    assert len({(line["color"], line["marker"]) for line in together.values()}) == 4
    for styles in pairs:
        assert len({line["color"] for line in styles.values()}) == 4
        assert all(styles[label] == line for label, line in together.items() if label in styles)


def test_runs_on_other_data_are_other_groups(tmp_path):
    one = write_run(tmp_path / "a", "inception_v4", [0.5], seed=0)
    two = write_run(tmp_path / "b", "inception_v4", [0.5], seed=1, data={"source": "idx:other"})
    assert len(labels(one, two)) == 2 and any("idx:other" in label for label in labels(one, two))
