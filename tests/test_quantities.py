"""Pictures of training metrics over steps."""

import json

import pytest
from compare_helpers import groups, texts, write_seeds

from inception_jax import runs
from inception_jax.compare import draw_metrics
from inception_jax.compare.quantities import draw, file_name, names_of, points_of
from inception_jax.errors import UserError


@pytest.fixture
def directories(tmp_path):
    """Three seeds of a pure network, the last of which ended early, and one of a residual one."""
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
    points = points_of(pure, "loss")
    assert [point.x for point in points] == list(range(1, 13))
    assert points[1][1:] == (1.0, 0.5, 1.5, 3)  # 1/2, 2/2 and 3/2
    assert points[-1][1:] == (1.5 / 12, 1 / 12, 2 / 12, 2)  # where two of three are left
    assert names_of([pure, residual]) == ["loss", "norm/stem", "norm/block_2", "norm/block_10"]


def test_one_metric_is_one_panel_with_a_line_for_each_group(directories):
    said = texts(draw(groups(*directories), "loss")["svg"])
    assert said.count("Inception-v4 (3 seeds, 1 unfinished)") == said.count("Inception-ResNet-v2") == 1
    assert said.count("step") == 1 and said.count("loss") == 2  # title and axis
    assert "a run that is not finished" in said


def test_a_name_with_a_slash_at_its_end_is_a_panel_for_each_group_that_has_it(directories):
    said = texts(draw(groups(*directories), "norm/")["svg"])
    assert [word for word in said if word in ("stem", "block_2", "block_10")] == ["stem", "block_2", "block_10"]
    assert "Inception-v4 (3 seeds, 1 unfinished)" in said and "Inception-ResNet-v2" not in said


def test_the_axis_is_logarithmic_where_the_values_span_decades(directories):
    ticks = [set(texts(draw(groups(*directories), name)["svg"])) for name in ("norm/stem", "norm/")]
    assert {"2", "5", "10", "20", "50", "100", "200"} <= ticks[1] and not {"20", "50"} & ticks[0]


def test_files_are_named_safely_and_an_unknown_name_writes_nothing(directories, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no run has a training metric 'lass'; there are loss, norm/stem, norm/block_2"):
        draw_metrics(directories, ["loss", "lass"], out)
    assert not out.exists()
    assert draw_metrics(directories, [], out) == []
    paths = draw_metrics(directories, ["norm/stem"], out)
    assert paths == [out / "norm-stem.png", out / "norm-stem.svg"] == sorted(out.iterdir())
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in draw_metrics(directories[::-1], ["norm/stem"], out)] == first
    assert (file_name("norm/"), file_name("../a b")) == ("norm-all", "..-a-b")
