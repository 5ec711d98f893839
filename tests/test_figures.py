"""Figures of a comparison: Figures 21-26 of the paper, and training metrics."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from compare_helpers import NETWORKS, groups, texts, write_run, write_seeds
from PIL import Image

from inception_jax import runs
from inception_jax.compare import compare, draw_metrics
from inception_jax.compare.figures import draw_errors, draw_metric, figure_rows, file_name, metric_band, metric_names
from inception_jax.errors import UserError


@pytest.fixture
def pair(tmp_path):
    """A pure run of 20 s per epoch that never reaches 10 %, and a residual run of 25 s per epoch."""
    pure = write_run(tmp_path / "v4", "inception_v4", [0.8, 0.6, 0.4, 0.3, 0.2, 0.15], seconds=20.0)
    residual = write_run(tmp_path / "rv2", "inception_resnet_v2", [0.7, 0.4, 0.3, 0.1], seconds=25.0)
    return pure, residual


def test_rows_of_panels(pair, tmp_path):
    others = [write_run(tmp_path / m, m, [0.9, 0.5]) for m in ("inception_v3", "another_net", "inception_resnet_v1")]
    found = [figure_rows(groups(*directories)) for directories in ([*pair, *others[:2]], [*others, *pair])]
    assert [row.titles for row in found[0]] == [
        ("Inception-v3, top-1 error", "Inception-v3, top-5 error"),
        tuple(f"Figure {n}: Inception-v4 and Inception-ResNet-v2, top-{k} error" for n, k in ((23, 1), (24, 5))),
        ("another-net, top-1 error", "another-net, top-5 error"),
    ]
    assert [row.titles[0][:10] for row in found[1]] == ["Figure 21:", "Figure 23:", "Figure 26:", "another-ne"]
    assert found[1][2].titles == ("Figure 26: all four, top-1 error", "Figure 25: all four, top-5 error")
    assert [group.label for group in found[1][2].groups] == [
        *("Inception-v3", "Inception-ResNet-v1", "Inception-v4", "Inception-ResNet-v2")
    ]


def test_all_four_are_drawn_at_their_best_settings(tmp_path):
    directories = [
        write_run(tmp_path / f"{m}-{rate}", m, [0.9, last], optim={"learning_rate": rate})
        for m, lasts in zip(NETWORKS, ((0.5, 0.4), (0.4, 0.5), (0.3, 0.2), (0.2, 0.3)), strict=True)
        for rate, last in zip((0.01, 0.1), lasts, strict=True)
    ]
    *pairs, row = figure_rows(groups(*directories))
    assert [len(pair.groups) for pair in pairs] == [4, 4]
    assert row.titles[0] == "Figure 26: all four, best of sweep, top-1 error"
    assert [group.label for group in row.groups] == [
        *("Inception-v3, rate 0.1", "Inception-ResNet-v1, rate 0.01"),
        *("Inception-v4, rate 0.1", "Inception-ResNet-v2, rate 0.01"),
    ]


def test_the_column_of_top_5_errors_needs_six_classes(tmp_path):
    few, many = (
        write_run(tmp_path / m, m, [0.9, 0.5], raw=[0.9], model={"num_classes": classes})
        for m, classes in (("inception_v3", 5), ("inception_v4", 6))
    )
    drawn = [texts(draw_errors(groups(*directories))["svg"]) for directories in ([few], [few, many])]
    assert [sum("top-5" in text for text in found) for found in drawn] == [0, 2]


def test_the_figure_shows_falling_errors_in_both_colours(pair):
    image = np.asarray(Image.open(io.BytesIO(draw_errors(groups(*pair))["png"])).convert("RGB"))
    assert image.shape == (592, 2080, 3)
    found = [(image == colour).all(axis=-1) for colour in ((0, 114, 178), (213, 94, 0))]  # residual, pure
    for left in (0, 800):  # top-1 and top-5
        assert all(line[:, left : left + 750].sum() > 300 for line in found)
    blue = np.argwhere(found[0][:, 100:750])
    assert blue[blue[:, 1].argmin(), 0] < blue[:, 0].max() - 100  # an error that falls


def test_several_seeds_are_drawn_as_one_line_with_a_band(tmp_path):
    directories = write_seeds(tmp_path, "inception_v4", [[0.8, 0.5], [0.7, 0.4], [0.8, 0.2]], raw=[0.9, 0.9])
    (group,) = groups(*directories)
    drawn = draw_errors([group])
    found = texts(drawn["svg"])
    assert found.count("Inception-v4 (3 seeds)") == 1 and "band: minimum to maximum" in found
    assert "thin: raw parameters" not in found  # For a single run only.
    image = np.asarray(Image.open(io.BytesIO(drawn["png"])).convert("RGB")).astype(int)
    band = (abs(image - (248, 229, 214)) < 3).all(axis=-1)  # 16 % of the line's colour on white.
    assert band[:, :750].sum() > 5000


def test_an_unfinished_run_ends_with_a_cross(tmp_path):
    directories = write_seeds(tmp_path, "inception_v4", [[0.8, 0.5], [0.7, 0.4], [0.8]], steps=12)
    found = texts(draw_errors(groups(*directories))["svg"])
    assert found.count("Inception-v4 (3 seeds, 1 unfinished)") == found.count("unfinished run") == 1


@pytest.mark.parametrize("last", [0.02, 0.0])
def test_a_wide_range_of_errors_is_drawn_on_a_logarithmic_axis(tmp_path, last):
    linear = write_run(tmp_path / "a", "inception_v4", [0.8, 0.4])
    log = write_run(tmp_path / "b", "inception_v4", [0.8, last])
    ticks = [{text for text in texts(draw_errors(groups(d))["svg"]) if text.isdecimal()} for d in (linear, log)]
    assert {"0", "60", "80"} <= ticks[0] and not {"60", "80"} & ticks[1]
    assert {"5", "10", "20", "50"} <= ticks[1]
    assert ("0" in ticks[1]) == (last == 0)


def test_text_of_the_figure(pair, tmp_path):
    running = write_run(tmp_path / "$ran", "inception_v3", [0.7, 0.4], raw=[0.6, 0.5], steps=24, name=r"a $\no$ & run")
    same = write_run(tmp_path / "again", "inception_v3", [0.7, 0.45], name="other")
    found = texts(draw_errors(groups(*pair, running, same))["svg"])
    for figure, column in ((23, "top-1 error"), (24, "top-5 error")):
        assert found.count(f"Figure {figure}: Inception-v4 and Inception-ResNet-v2, {column}") == 1
        assert found.count(f"Inception-v3, {column}") == 1
    assert found.count("Inception-ResNet-v2") == found.count("Inception-v3, other") == 1
    assert found.count(r"Inception-v3, a $\no$ & run (step 12 of 24)") == 1
    assert found.count("thin: raw parameters") == 1
    assert found.count("epoch") == found.count("validation error (%)") == 4


def test_files_are_the_same_when_drawn_again(pair, tmp_path):
    several = write_seeds(tmp_path, "inception_v4", [[0.8, 0.5], [0.7, 0.4]], optim={"momentum": 0.0})
    first = compare([*pair, *several], tmp_path / "one")
    names = ["curves.png", "curves.svg", "comparison.md", "comparison.csv", "comparison.json"]
    assert [path.name for path in first] == names
    # In another order and another process, so that hashes and identities differ. That process imports neither JAX nor
    # pyplot, and Matplotlib and SciPy only when needed.
    code = (
        "import sys; from inception_jax.compare import compare; assert not {'matplotlib', 'scipy'} & set(sys.modules);"
        "compare(sys.argv[2:], sys.argv[1]); assert not {'jax', 'flax', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    others = map(str, [*several[::-1], *pair[::-1]])
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "two"), *others], check=True)
    for path in first:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(names)


def test_comparing_again_replaces_the_files(pair, tmp_path):
    out = tmp_path / "out"
    compare(pair[:1], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    compare(pair, out)
    assert all(path.read_bytes() != before[path.name] for path in out.iterdir())


@pytest.fixture
def directories(tmp_path):
    """Three seeds of a pure network, the last of them unfinished, and one of a residual network."""
    found = write_seeds(tmp_path, "inception_v4", [[0.8, 0.5], [0.8, 0.4], [0.8]], steps=12)
    found += write_seeds(tmp_path, "inception_resnet_v2", [[0.5, 0.2]])
    for factor, directory in enumerate(found, start=1):
        pure = "inception_v4" in directory.name
        with (directory / runs.METRICS).open("a") as file:
            for step in range(1, 7 if factor == 3 else 13):
                line = {"step": step, "epoch": step / 6, "split": "train", "seconds": 1.0, "loss": factor / step}
                if pure:
                    line |= {"norm/stem": 1.0 * factor, "norm/block_2": 5.0 * factor, "norm/block_10": 100.0 * factor}
                file.write(json.dumps(line) + "\n")
    return found


def test_a_metric_is_the_median_of_the_seeds_over_steps(directories):
    pure, residual = groups(*directories)
    points = metric_band(pure, "loss")
    assert [point.x for point in points] == list(range(1, 13))
    assert points[1][1:] == (1.0, 0.5, 1.5, 3)  # 1/2, 2/2 and 3/2
    assert points[-1][1:] == (1.5 / 12, 1 / 12, 2 / 12, 2)  # two of three seeds are left
    assert metric_names([pure, residual]) == ["loss", "norm/stem", "norm/block_2", "norm/block_10"]


def test_one_metric_is_one_panel_with_a_line_for_each_group(directories):
    found = texts(draw_metric(groups(*directories), "loss")["svg"])
    assert found.count("Inception-v4 (3 seeds, 1 unfinished)") == found.count("Inception-ResNet-v2") == 1
    assert found.count("step") == 1 and found.count("loss") == 2  # title and axis
    assert "unfinished run" in found


def test_a_name_that_ends_in_a_slash_is_a_panel_for_each_group_that_has_it(directories):
    found = texts(draw_metric(groups(*directories), "norm/")["svg"])
    assert [text for text in found if text in ("stem", "block_2", "block_10")] == ["stem", "block_2", "block_10"]
    assert "Inception-v4 (3 seeds, 1 unfinished)" in found and "Inception-ResNet-v2" not in found


def test_the_axis_is_logarithmic_where_the_values_span_decades(directories):
    ticks = [set(texts(draw_metric(groups(*directories), name)["svg"])) for name in ("norm/stem", "norm/")]
    assert {"2", "5", "10", "20", "50", "100", "200"} <= ticks[1] and not {"20", "50"} & ticks[0]


def test_file_names_are_safe_and_an_unknown_metric_writes_nothing(directories, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="'lass'.*loss, norm/stem"):
        draw_metrics(directories, ["loss", "lass"], out)
    assert not out.exists()
    assert draw_metrics(directories, [], out) == []
    paths = draw_metrics(directories, ["norm/stem"], out)
    assert paths == [out / "norm-stem.png", out / "norm-stem.svg"] == sorted(out.iterdir())
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in draw_metrics(directories[::-1], ["norm/stem"], out)] == first
    assert (file_name("norm/"), file_name("../a b")) == ("norm-all", "..-a-b")
