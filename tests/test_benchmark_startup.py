"""The report on start-up has consistent numbers, measured with the real command."""

import dataclasses
import subprocess

import pytest
from helpers import SMALL, changed

from inception_jax.benchmark import startup
from inception_jax.benchmark.startup_probe import Spans
from inception_jax.cli.benchmark import MeasureStartup
from inception_jax.errors import RunFailed, UserError


def test_a_span_excludes_the_spans_within_it():
    spans = Spans()
    for name, begin, end in [("inner", 2, 3), ("inmost", 2.5, 2.75), ("outer", 1, 6), ("inner", 4, 6), ("outer", 7, 8)]:
        spans.add(name, begin, end)
    assert spans.seconds() == {"outer": 5 - 1 - 2 + 1, "inner": 1 - 0.25 + 2, "inmost": 0.25}


def test_medians_and_extremes_are_over_the_starts():
    starts = [
        dict.fromkeys((*startup.STAGES, "other"), 0.0) | {"tracing": t, "all": a} for t, a in [(1, 9), (5, 6), (3, 7)]
    ]
    start = startup._median(starts)
    assert (start.seconds, start.least_seconds, start.most_seconds, start.stages["tracing"]) == (7, 6, 9, 3)


@pytest.mark.slow
def test_a_warm_start_uses_the_cache_of_the_cold_one():
    report = dataclasses.asdict(startup.benchmark(changed(SMALL, data={"colour": False}), repeats=1))
    assert report["model"] == "inception_resnet_v1" and report["image_size"] == 75 and report["batch_size"] == 8
    assert report["help_seconds"] > 0
    for start in (report["cold"], report["warm"]):
        assert start["seconds"] == start["least_seconds"] == start["most_seconds"]
        assert sum(start["stages"].values()) == pytest.approx(start["seconds"])
        # A stage of zero seconds would not have been observed.
        assert set(start["stages"]) == {*startup.STAGES, "other"} and min(start["stages"].values()) > 0
    # Compiling this network takes ten times as long as reading it.
    assert report["warm"]["stages"]["compiling"] < report["cold"]["stages"]["compiling"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"repeats": 0}, "--repeats.* 0"),
        ({"image_size": 32}, r"data\.image_size.* 32"),
    ],
)
def test_invalid_values_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        MeasureStartup(**values)([])


@pytest.mark.parametrize(
    ("code", "stderr", "error", "message"),
    [
        (2, "inception-jax: there is no network 'vgg'\n", UserError, "^there is no network 'vgg'"),
        (1, "a line\nMemoryError\n", RunFailed, "^MemoryError"),
        (0, "", RunFailed, "first step"),
    ],
)
def test_a_start_that_ends_early_reports_why(monkeypatch, code, stderr, error, message):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], code, "", stderr))
    with pytest.raises(error, match=message):
        MeasureStartup(model="vgg")([])
