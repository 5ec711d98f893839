"""Tables and curves of runs written by hand, against numbers worked out by hand."""

import csv
import html
import io
import json
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from inception_jax import config, runs
from inception_jax.compare import Race, arithmetic, compare, levels, race, summary_row
from inception_jax.curves import curves_of, display_name, draw, pair_of
from inception_jax.errors import UserError

BATCH = 10
MULTIPLY_ADDS = {"inception_v3": 100, "inception_resnet_v1": 110, "inception_v4": 200, "inception_resnet_v2": 220}


def write_run(directory, model, top1, *, name=None, raw=(), top5=None, speeds=(), steps=None, seconds=10.0, seed=0):
    """A run evaluated after each epoch of 6 steps; epoch k+1 ends after (k+1) * seconds."""
    top5 = top5 or [error / 2 for error in top1]
    lines = []
    for k, error in enumerate(top1):
        place = {"step": 6 * (k + 1), "epoch": float(k + 1), "seconds": seconds * (k + 1)}
        if k < len(speeds):
            lines.append({**place, "split": "train", "loss": 1.0, "images_per_second": speeds[k]})
        line = {**place, "split": "validation", "loss": 1.0, "images": 400}
        lines.append({**line, "parameters": "averaged", "top1_error": error, "top5_error": top5[k]})
        if k < len(raw):
            lines.append({**line, "parameters": "raw", "top1_error": raw[k], "top5_error": raw[k] / 2})
    experiment = config.Experiment(
        seed=seed, model=config.ModelConfig(name=model), train=config.TrainConfig(batch_size=BATCH)
    )
    info = runs.RunInfo(
        name or model, steps or 6 * len(top1), 60, 400, 12_345, MULTIPLY_ADDS.get(model, 50), "a machine"
    )
    runs.write_config(directory, info, experiment)
    (directory / runs.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def curves(*directories):
    return curves_of([runs.read_run(directory) for directory in directories])


def epochs(_, record):
    return record["epoch"]


def tables(path):
    """Each table of a markdown file as a list of dictionaries; a column's name that comes again gets its number."""
    found, block = [], []
    for line in [*path.read_text().splitlines(), ""]:
        if line.startswith("|"):
            block.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif block:
            header = [f"{cell} {i}" if block[0].count(cell) > 1 else cell for i, cell in enumerate(block[0])]
            found.append([dict(zip(header, cells, strict=True)) for cells in block[2:]])
            block = []
    return found


@pytest.fixture
def pair(tmp_path):
    """The pure network needs 20 s an epoch and never comes under 10 %; the residual one needs 25 s."""
    pure = write_run(tmp_path / "v4", "inception_v4", [0.8, 0.6, 0.4, 0.3, 0.2, 0.15], seconds=20.0)
    residual = write_run(tmp_path / "rv2", "inception_resnet_v2", [0.7, 0.4, 0.3, 0.1], seconds=25.0)
    return pure, residual


def test_levels_leave_out_what_tells_nothing(pair):
    # Both are under 90 and 80 % at once; nobody comes under 7 %; the pure network alone fails 70 % at first.
    assert levels(*curves(*pair)) == [70, 60, 50, 40, 30, 20, 15, 10]


def test_epochs_to_an_error_are_those_of_the_first_evaluation_at_or_under_it(pair):
    pure, residual = curves(*pair)
    assert race(pure, residual, 40, epochs) == Race(3.0, 2.0, 6.0, 4.0)  # exactly 40 % counts
    assert race(pure, residual, 50, epochs) == Race(3.0, 2.0, 6.0, 4.0)  # not interpolated
    assert race(pure, residual, 10, epochs) == Race(None, 4.0, 6.0, 4.0)
    assert race(pure, residual, 30, arithmetic) == Race(24 * 10 * 200, 18 * 10 * 220, 36 * 10 * 200, 24 * 10 * 220)


def test_an_error_that_rises_again_counts_where_it_was_first_reached(tmp_path):
    pure = write_run(tmp_path / "v3", "inception_v3", [0.8, 0.3, 0.5, 0.3])
    residual = write_run(tmp_path / "rv1", "inception_resnet_v1", [0.8, 0.5, 0.6, 0.3])
    assert race(*curves(pure, residual), 30, epochs) == Race(2.0, 4.0, 4.0, 4.0)


def test_an_untrained_network_reaches_nothing(tmp_path):
    pure, residual = (write_run(tmp_path / m, m, [0.95, 0.5]) for m in ("inception_v4", "inception_resnet_v2"))
    for directory in (pure, residual):
        path = directory / runs.METRICS
        first = {"step": 0, "epoch": 0.0, "split": "validation", "parameters": "averaged", "top1_error": 0.9}
        path.write_text(json.dumps({**first, "top5_error": 0.5, "seconds": 0.0}) + "\n" + path.read_text())
    assert levels(*curves(pure, residual)) == [90, 80, 70, 60, 50]
    assert race(*curves(pure, residual), 90, epochs) == Race(2.0, 2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("numbers", "speed_up", "lead"),
    [
        ((3.0, 2.0, 6.0, 6.0), "1.50", 1),
        ((2.0, 3.0, 6.0, 6.0), "0.67", -1),
        ((2.0, 2.0, 6.0, 6.0), "1.00", 0),
        ((None, 4.0, 6.0, 6.0), "> 1.50", 1),
        ((None, 4.0, 3.0, 6.0), "> 0.75", 0),  # the pure run was too short to tell
        ((3.0, None, 6.0, 6.0), "< 0.50", -1),
        ((3.0, None, 6.0, 2.0), "< 1.50", 0),  # the residual run was too short to tell
        ((None, None, 6.0, 6.0), "—", 0),
        ((3.0, 0.0, 6.0, 6.0), "—", 1),
    ],
)
def test_speed_up(numbers, speed_up, lead):
    assert (Race(*numbers).speed_up, Race(*numbers).lead) == (speed_up, lead)


def test_pair_table(pair, tmp_path):
    compare(pair, tmp_path / "out")
    _, table = tables(tmp_path / "out" / "comparison.md")
    assert [line["top-1 error at most"] for line in table] == [f"{n} %" for n in (70, 60, 50, 40, 30, 20, 15, 10)]
    assert list(table[3].values()) == ["40 %", "3", "2", "1.50", "60 s", "50 s", "1.20", "36 k", "26.4 k", "1.36"]
    assert list(table[4].values()) == ["30 %", "4", "3", "1.33", "80 s", "75 s", "1.07", "48 k", "39.6 k", "1.21"]
    assert list(table[7].values()) == ["10 %", "—", "4", "> 1.50", "—", "100 s", "> 1.20", "—", "52.8 k", "> 1.36"]


def test_pair_sentence(pair, tmp_path):
    compare(pair, tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    # Wall time of pure and residual: 40 and 25 (70 %), 40 and 50 (60 %), 60 and 50 (50 and 40 %), 80 and 75 (30 %),
    # 100 and 100 (20 %), 120 and 100 (15 %), never and 100 (10 %).
    # Steps x cost alike: 2 x 200 and 220, 400 and 440, 600 and 440 twice, 800 and 660, 1000 and 880, 1200 and 880.
    assert (
        "Of 8 levels Inception-ResNet-v2 was ahead of Inception-v4 at 7 by epochs, 6 by wall time, 7 by multiply-adds, "
        "and behind at 0, 1, 1; the final top-1 error of Inception-ResNet-v2 is 10.00 % after 4 epochs, "
        "that of Inception-v4 15.00 % after 6 epochs. Their experiments differ in the network alone." in text
    )
    assert "400 validation images: one image is 0.25 points" in text
    assert "standard error of a final top-1 error at most 1.8." in text  # sqrt(0.15 * 0.85 / 400) = 0.01785
    assert "One seed was run per network" in text


def test_experiments_that_differ_in_more_than_the_network_are_called_so(pair, tmp_path):
    other = write_run(tmp_path / "other", "inception_resnet_v2", [0.7, 0.4], seed=3)
    compare([pair[0], other], tmp_path / "out")
    assert (
        "Their experiments differ in the network, seed (3 and 0)." in (tmp_path / "out" / "comparison.md").read_text()
    )


def test_a_pair_that_no_level_tells_apart_has_no_table(tmp_path):
    directories = [write_run(tmp_path / m, m, [0.95, 0.92]) for m in ("inception_v3", "inception_resnet_v1")]
    compare(directories, tmp_path / "out")
    assert len(tables(tmp_path / "out" / "comparison.md")) == 1
    assert "No level tells the two apart; the final" in (tmp_path / "out" / "comparison.md").read_text()


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
    row = summary_row(curve)
    assert row["images_per_second"] == 45.0  # the median, so that neither compiling nor a hiccup counts
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
    assert list(table[0].values()) == [
        *("Inception-v4", "pure", "12.3 k", "200", "0.045", "2", "25.00", "25.00 (2)", "12.50", "12.50 (2)"),
        *("20.00", "100.0 min", "175"),
    ]
    assert list(table[1].values()) == [
        *("Inception-ResNet-v1", "residual", "12.3 k", "110", "0.045", "2", "62.50", "50.00 (1)", "31.25", "25.00 (1)"),
        *("—", "20 s", "—"),
    ]


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
    table, _ = tables(tmp_path / "out" / "comparison.md")
    assert [line["network"] for line in table] == ["Inception-v4", "Inception-ResNet-v2 (step 12 of 24)"]
    assert table[1]["epochs"] == "2"


def test_a_step_evaluated_twice_counts_once(tmp_path):
    directory = write_run(tmp_path / "v4", "inception_v4", [0.5, 0.4])
    path = directory / runs.METRICS
    again = {**json.loads(path.read_text().splitlines()[-1]), "top1_error": 0.39}
    path.write_text(path.read_text() + json.dumps(again) + "\n")
    (curve,) = curves(directory)
    assert [record["top1_error"] for record in curve.averaged] == [0.5, 0.39]


def test_runs_that_cannot_be_compared_are_named(pair, tmp_path):
    with pytest.raises(UserError, match="no run to compare"):
        compare([], tmp_path / "out")
    waiting = write_run(tmp_path / "waiting", "inception_v4", [])
    with pytest.raises(UserError, match=r"waiting has no validation line yet"):
        compare([*pair, waiting], tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere is not a run: it has no config\.json"):
        compare([tmp_path / "nowhere"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_runs_of_one_network(pair, tmp_path):
    first = write_run(tmp_path / "x" / "s0", "inception_v4", [0.8, 0.5, 0.3], name="seed-0")
    second = write_run(tmp_path / "x" / "s1", "inception_v4", [0.8, 0.4, 0.2], name="seed-1")
    third = write_run(tmp_path / "x" / "s2", "inception_v4", [0.8, 0.1, 0.25], name="seed-2")
    compare([first, second, third, pair[1]], tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    table, _ = tables(tmp_path / "out" / "comparison.md")
    assert [line["network"] for line in table] == [
        *(f"Inception-v4, seed-{n}" for n in range(3)),
        "Inception-ResNet-v2",
    ]
    assert "## Inception-v4, seed-1 and Inception-ResNet-v2\n" in text  # by its final error, not its best
    assert "Inception-v4, seed-1 stands for 3 runs as the one with the least final top-1 error." in text
    assert "Runs per network: Inception-v4 3, Inception-ResNet-v2 1." in text


def test_labels_tell_runs_of_the_same_name_apart(tmp_path):
    names = [("a", "one", "n"), ("a", "two", "n"), ("b", "one", "n")]
    by_directory = [write_run(tmp_path / up / d, "inception_v3", [0.5], name=n) for up, d, n in names]
    assert [c.label for c in curves(*by_directory[:2])] == ["Inception-v3, one", "Inception-v3, two"]
    assert [c.label for c in curves(*by_directory)] == [f"Inception-v3, {directory}" for directory in by_directory]


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


def test_rows_of_panels(pair, tmp_path):
    one, two = (write_run(tmp_path / m, m, [0.9, 0.5]) for m in ("inception_v3", "another_net"))
    height = [Image.open(io.BytesIO(draw(curves(*d))["png"])).height for d in (pair, [*pair, one], [*pair, one, two])]
    assert height[1] == 2 * height[0] and height[2] == 3 * height[0]


def test_the_picture_shows_what_the_runs_did(pair):
    image = np.asarray(Image.open(io.BytesIO(draw(curves(*pair))["png"])).convert("RGB"))
    assert image.shape == (592, 1600, 3)
    for left in (0, 800):  # top-1 and top-5
        panel = image[:, left : left + 800]
        for colour in ((0, 114, 178), (213, 94, 0)):  # residual, pure
            assert (panel == colour).all(axis=-1).sum() > 300
    blue = np.argwhere((image[:, 110:800] == (0, 114, 178)).all(axis=-1))
    assert blue[blue[:, 1].argmin(), 0] < blue[:, 0].max() - 100  # an error that falls


@pytest.mark.parametrize("last", [0.02, 0.0])
def test_a_wide_range_of_errors_is_drawn_on_a_logarithmic_axis(tmp_path, last):
    linear = write_run(tmp_path / "a", "inception_v4", [0.8, 0.4])
    log = write_run(tmp_path / "b", "inception_v4", [0.8, last])
    ticks = [{text for text in _comments(draw(curves(d))["svg"]) if text.isdecimal()} for d in (linear, log)]
    assert {"0", "60", "80"} <= ticks[0] and not {"60", "80"} & ticks[1]
    assert {"5", "10", "20", "50"} <= ticks[1]
    assert ("0" in ticks[1]) == (last == 0)


def _comments(svg):
    """matplotlib draws text as outlines and leaves the text itself in a comment."""
    parser = xml.etree.ElementTree.XMLParser(target=xml.etree.ElementTree.TreeBuilder(insert_comments=True))
    root = xml.etree.ElementTree.fromstring(svg, parser)
    return [
        html.unescape(element.text.strip()) for element in root.iter() if element.tag is xml.etree.ElementTree.Comment
    ]


def test_text_of_the_picture(pair, tmp_path):
    running = write_run(tmp_path / "$ran", "inception_v3", [0.7, 0.4], raw=[0.6, 0.5], steps=24, name=r"a $\no$ & run")
    same = write_run(tmp_path / "again", "inception_v3", [0.7, 0.45], name="other")
    texts = _comments(draw(curves(*pair, running, same))["svg"])
    for column in ("top-1 error", "top-5 error"):
        assert texts.count(f"Inception-v4 and Inception-ResNet-v2, {column}") == 1
        assert texts.count(f"Inception-v3, {column}") == 1
    assert texts.count("Inception-ResNet-v2") == texts.count("Inception-v3, other") == 1
    assert texts.count(r"Inception-v3, a $\no$ & run (step 12 of 24)") == 1
    assert texts.count("thin: parameters not averaged") == 1
    assert texts.count("epoch") == texts.count("validation error (%)") == 4


def test_files_are_the_same_when_drawn_again(pair, tmp_path):
    first = compare(pair, tmp_path / "one")
    assert [path.name for path in first] == ["curves.png", "curves.svg", "comparison.md", "comparison.csv"]
    # In another process, where hashes and identities are others.
    code = "import sys; from inception_jax.compare import compare; compare(sys.argv[2:], sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "two"), *map(str, pair)], check=True)
    for path in first:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(path.name for path in first)


def test_comparing_again_replaces_what_was_there(pair, tmp_path):
    out = tmp_path / "out"
    compare(pair[:1], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    compare(pair, out)
    assert all(path.read_bytes() != before[path.name] for path in out.iterdir())


def test_neither_jax_nor_pyplot_is_imported(pair, tmp_path):
    code = (
        "import sys; from inception_jax.compare import compare; assert 'matplotlib' not in sys.modules;"
        "compare(sys.argv[2:], sys.argv[1]); print({'jax', 'flax', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out"), *map(str, pair)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"
