"""Reports on handwritten runs, against numbers computed by hand."""

import csv
import io
import json
import re

import pytest
from compare_helpers import curves, tables, write_run

from inception_jax import runs
from inception_jax.compare import compare
from inception_jax.compare.claims import BEST, SAME
from inception_jax.compare.records import summary_row
from inception_jax.compare.runs_to_groups import display_name, pair_of
from inception_jax.errors import UserError


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """Drawing takes most of the time; test_figures.py tests it."""
    monkeypatch.setattr("inception_jax.compare.draw_errors", lambda groups: {"png": b"", "svg": b""})


@pytest.fixture
def pair(tmp_path):
    """A pure run of 20 s per epoch that never reaches 10 %, and a residual run of 25 s per epoch."""
    pure = write_run(tmp_path / "v4", "inception_v4", [0.8, 0.6, 0.4, 0.3, 0.2, 0.15], seconds=20.0)
    residual = write_run(tmp_path / "rv2", "inception_resnet_v2", [0.7, 0.4, 0.3, 0.1], seconds=25.0)
    return pure, residual


def test_pair_table(pair, tmp_path):
    compare(pair, tmp_path / "out")
    _, pairs, table, _ = tables(tmp_path / "out" / "comparison.md")
    assert [line["target top-1 error"] for line in table] == [f"{n} %" for n in (70, 60, 50, 40, 30, 20, 15, 10)]
    assert list(table[3].values()) == ["40 %", "3", "2", "1.50", "60 s", "50 s", "1.20", "36 k", "26.4 k", "1.36"]
    assert list(table[4].values()) == ["30 %", "4", "3", "1.33", "80 s", "75 s", "1.07", "48 k", "39.6 k", "1.21"]
    assert list(table[7].values()) == ["10 %", "—", "4", "> 1.50", "—", "100 s", "> 1.20", "—", "52.8 k", "> 1.36"]


def test_final_errors_table(pair, tmp_path):
    compare(pair, tmp_path / "out")
    *_, table = tables(tmp_path / "out" / "comparison.md")
    # The residual run has the smaller total costs: 4 epochs, 100 s (5 epochs of the pure run), 52.8 k (4.4 epochs).
    assert [list(line.values()) for line in table] == [
        ["epochs", "4", "top-1", "30.00", "10.00", "-20.00", "—", "1"],
        ["epochs", "4", "top-5", "15.00", "5.00", "-10.00", "—", "1"],
        ["wall time", "100 s", "top-1", "20.00", "10.00", "-10.00", "—", "1"],
        ["wall time", "100 s", "top-5", "10.00", "5.00", "-5.00", "—", "1"],
        ["multiply-adds", "52.8 k", "top-1", "30.00", "10.00", "-20.00", "—", "1"],
        ["multiply-adds", "52.8 k", "top-5", "15.00", "5.00", "-10.00", "—", "1"],
    ]


def test_table_of_pairs(pair, tmp_path):
    compare(pair, tmp_path / "out")
    _, (line,), _, _ = tables(tmp_path / "out" / "comparison.md")
    # Epochs to 70, 60, ... 10 %: 2/1, 2/2, 3/2, 3/2, 4/3, 5/4, 6/4, > 6/4; geometric mean 16.875 ** (1 / 8).
    assert list(line.values())[:4] == [
        "Inception-v4 and Inception-ResNet-v2",
        f"{SAME}, {BEST}",
        "1",
        "1.42",
    ]
    assert list(line.values())[-3:] == ["undecided", "-20.00", "—"]


def test_pair_sentence(pair, tmp_path):
    compare(pair, tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    # Wall time of pure and residual: 40 and 25 (70 %), 40 and 50 (60 %), 60 and 50 (50 and 40 %), 80 and 75 (30 %),
    # 100 and 100 (20 %), 120 and 100 (15 %), never and 100 (10 %).
    # Steps x cost alike: 2 x 200 and 220, 400 and 440, 600 and 440 twice, 800 and 660, 1000 and 880, 1200 and 880.
    counts = r"8 target.* 7 by epochs, 6 by wall time, 7 by multiply-adds.* 0, 1, 1"
    assert re.search(rf"{counts}.* network, length \(36 and 24 steps\)", text)
    # The standard error is sqrt(0.15 * 0.85 / 400) = 0.01785.
    assert re.search("400 validation images.* 0.25 points.* 1.8 points.* one seed", text)


def test_a_comparison_without_a_pair_omits_the_claims(pair, tmp_path):
    for directories, paired in ((pair, True), (pair[:1], False)):
        compare(directories, tmp_path / "out")
        text = (tmp_path / "out" / "comparison.md").read_text()
        assert ("claims" in text) == ("pure / residual" in text) == paired


def test_differences_beside_the_network_are_listed(pair, tmp_path):
    other = write_run(
        tmp_path / "other", "inception_resnet_v2", [0.7] * 6, seed=3, optim={"momentum": 0.5}, model={"width": 0.5}
    )
    compare([pair[0], other], tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "model.width (1.0 and 0.5), optim.momentum (0.9 and 0.5)" in text and "Welch" in text
    assert tables(tmp_path / "out" / "comparison.md")[1][0]["compared at"] == BEST


def test_a_pair_without_an_informative_target_has_no_table(tmp_path):
    directories = [write_run(tmp_path / m, m, [0.95, 0.92]) for m in ("inception_v3", "inception_resnet_v1")]
    compare(directories, tmp_path / "out")
    assert len(tables(tmp_path / "out" / "comparison.md")) == 3  # runs, pairs, final errors
    assert "No target error" in (tmp_path / "out" / "comparison.md").read_text()


def test_summary_row(tmp_path):
    directory = write_run(
        tmp_path / "v4",
        "inception_v4",
        [0.5, 0.25, 0.3, 0.25, 0.275],
        top5=[0.2, 0.1, 0.1, 0.05, 0.06],
        raw=[0.6, 0.2, 0.3, 0.4, 0.35],
        speeds=[1.0, 900.0, 40.0, 50.0, 45.0],
    )
    (curve,) = curves(directory)
    row = summary_row(curve, "a label")
    assert row["images_per_second"] == 45.0  # the median ignores compilation and outliers
    assert (row["final_top1_error"], row["final_top5_error"], row["final_epoch"]) == (0.275, 0.06, 5.0)
    assert (row["best_top1_error"], row["best_top1_epoch"]) == (0.25, 2.0)  # the earlier of two
    assert (row["best_top5_error"], row["best_top5_epoch"]) == (0.05, 4.0)
    assert (row["final_raw_top1_error"], row["final_raw_top5_error"]) == (0.35, 0.175)
    assert (row["wall_seconds"], row["steps"], row["epochs"]) == (50.0, 30, 5.0)
    assert (row["parameters"], row["multiply_adds"], row["kind"]) == (12_345, 200, "pure")


def test_runs_table(tmp_path):
    speeds = [100.0, 250.0]
    v4 = write_run(tmp_path / "a", "inception_v4", [0.5, 0.25], raw=[0.6, 0.2], speeds=speeds, seconds=3000.0)
    bare = write_run(tmp_path / "b", "inception_resnet_v1", [0.5, 0.625])
    compare([v4, bare], tmp_path / "out")
    (table,) = tables(tmp_path / "out" / "comparison.md")  # and no pair
    assert list(table[1].values()) == [
        *("Inception-v4", "pure", "12.3 k", "200", "0.045", "2", "25.00", "25.00 (2)", "12.50", "12.50 (2)"),
        *("20.00", "100.0 min", "175"),
    ]
    assert list(table[0].values()) == [
        *("Inception-ResNet-v1", "residual", "12.3 k", "110", "0.045", "2", "62.50", "50.00 (1)", "31.25", "25.00 (1)"),
        *("—", "20 s", "—"),
    ]


@pytest.mark.parametrize("logged", [True, False], ids=["by an earlier version", "by this one"])
def test_runs_of_few_classes_have_no_top_5_error(tmp_path, logged):
    networks = ("inception_v3", "inception_resnet_v1", "inception_v4")
    directories = [
        *(write_run(tmp_path / m, m, [0.5, 0.25], raw=[0.6, 0.3], model={"num_classes": 3}) for m in networks[:2]),
        write_run(tmp_path / "v4", "inception_v4", [0.5, 0.25], raw=[0.6, 0.3], model={"num_classes": 10}),
    ]
    for path in [directory / runs.METRICS for directory in directories[: 0 if logged else 2]]:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({k: v for k, v in m.items() if k != "top5_error"}) + "\n" for m in lines))
    compare(directories, tmp_path / "out")
    found = tables(tmp_path / "out" / "comparison.md")
    cells = {line["network"]: (line["final top-5"], line["best top-5 (epoch)"]) for line in found[0]}
    missing = ("—", "—")
    assert cells == {"Inception-v3": missing, "Inception-ResNet-v1": missing, "Inception-v4": ("12.50", "12.50 (2)")}
    assert {line["final error"] for line in found[-1]} == {"top-1"}
    rows = csv.DictReader(io.StringIO((tmp_path / "out" / "comparison.csv").read_text()))
    assert [row["best_top5_error"] for row in rows] == ["", "", "0.125"]


def test_csv_is_in_full_precision(tmp_path):
    third = write_run(tmp_path / "v3", "inception_v3", [1 / 3], name='a "run", with | signs')
    compare([third], tmp_path / "out")
    (row,) = csv.DictReader(io.StringIO((tmp_path / "out" / "comparison.csv").read_text()))
    assert float(row["final_top1_error"]) == 1 / 3
    assert (row["run"], row["model"], row["seed"]) == ('a "run", with | signs', "inception_v3", "0")
    assert row["images_per_second"] == "" == row["final_raw_top1_error"]
    assert (row["steps"], row["steps_planned"], row["directory"]) == ("6", "6", str(third))


def test_an_unfinished_run_is_marked(pair, tmp_path):
    running = write_run(tmp_path / "running", "inception_resnet_v2", [0.7, 0.4], steps=24)
    with (running / runs.METRICS).open("a") as file:
        file.write('{"step": 18, "epoch": 3.0, "split": "val')  # killed while writing
    compare([pair[0], running], tmp_path / "out")
    table, *_ = tables(tmp_path / "out" / "comparison.md")
    assert [line["network"] for line in table] == ["Inception-v4", "Inception-ResNet-v2 (step 12 of 24)"]
    assert "unfinished run" in (tmp_path / "out" / "comparison.md").read_text()
    assert table[1]["epochs"] == "2"


def test_a_step_evaluated_twice_counts_once(tmp_path):
    directory = write_run(tmp_path / "v4", "inception_v4", [0.5, 0.4])
    path = directory / runs.METRICS
    again = {**json.loads(path.read_text().splitlines()[-1]), "top1_error": 0.39}
    path.write_text(path.read_text() + json.dumps(again) + "\n")
    (curve,) = curves(directory)
    assert [record["top1_error"] for record in curve.averaged] == [0.5, 0.39]


def test_runs_that_cannot_be_compared_are_named(pair, tmp_path):
    with pytest.raises(UserError, match="no run"):
        compare([], tmp_path / "out")
    waiting = write_run(tmp_path / "waiting", "inception_v4", [])
    with pytest.raises(UserError, match="waiting.* evaluated"):
        compare([waiting], tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere.*config\.json"):
        compare([tmp_path / "nowhere"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_evaluation_is_named_and_left_out(pair, tmp_path):
    # For instance a run whose loss became non-finite in its first steps.
    waiting = write_run(tmp_path / "waiting", "inception_v4", [])
    (waiting / runs.METRICS).write_text('{"step": 3, "epoch": 0.5, "split": "train", "loss": 9.0, "seconds": 1.0}\n')
    compare([*pair, waiting], tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert f"{waiting} (step 3 of 0)" in text
    assert len(tables(tmp_path / "out" / "comparison.md")[0]) == 2


def test_a_directory_given_twice_counts_once(pair, tmp_path):
    compare([pair[0], pair[0], tmp_path / "v4" / ".." / "v4"], tmp_path / "out")
    table, *_ = tables(tmp_path / "out" / "comparison.md")
    assert [line["network"] for line in table] == ["Inception-v4"]


def test_networks_of_the_paper_and_their_pairs():
    assert pair_of("inception_v3") == pair_of("inception_resnet_v1") == ("inception_v3", "inception_resnet_v1")
    assert pair_of("inception_v4") == pair_of("inception_resnet_v2") == ("inception_v4", "inception_resnet_v2")
    assert pair_of("inception_resnet_v2_slim") == ("inception_v4", "inception_resnet_v2")
    assert pair_of("another_net") == ("another_net",)
    assert display_name("inception_v3") == "Inception-v3"
    assert display_name("inception_resnet_v2") == "Inception-ResNet-v2"
    assert display_name("inception_resnet_v2_slim") == "Inception-ResNet-v2 (slim)"
