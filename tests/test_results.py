"""The results that are published are what this code makes of the runs that are kept beside them."""

import importlib
import json
from pathlib import Path

import pytest

from inception_jax.cli.experiment_files import load_runs
from inception_jax.compare import claims, records, report, runs_to_groups
from inception_jax.config import differences
from inception_jax.runs import read_run

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
COMPARED = [
    "residual_vs_pure_fashion",
    "residual_vs_pure_fashion_rates",
    "residual_vs_pure_why",
    "section_4_ablation",
]
STUDIES = ["residual_scaling", *COMPARED]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # The tables name directories from there.


def kept(study):
    return [read_run(path.relative_to(ROOT)) for path in sorted((RESULTS / study / "runs").iterdir())]


@pytest.mark.parametrize("study", STUDIES)
def test_the_runs_are_whole_and_the_experiments_as_they_are(study):
    asked = load_runs(ROOT / "experiments" / f"{study}.py")
    runs = {run.info.name: run for run in kept(study)}
    assert set(runs) == set(asked)
    for name, run in runs.items():
        assert run.finished, name
        # The classes are the data set's, which an experiment need not say.
        assert set(differences(asked[name], run.experiment)) <= {"model.num_classes"}, name
        assert asked[name].train == run.experiment.train, name
        assert asked[name].data.training_images == run.info.training_images, name


def assert_close(ours, published, path="comparison.json"):
    """Equal up to rounding: SciPy's quantiles and p values differ in the last digit from version to version."""
    if isinstance(published, float):
        assert ours == pytest.approx(published, rel=1e-9, abs=1e-12), path
    elif isinstance(published, dict | list):
        assert type(ours) is type(published) and len(ours) == len(published), path
        for key in published if isinstance(published, dict) else range(len(published)):
            assert_close(ours[key], published[key], f"{path}/{key}")
    else:
        assert ours == published, path


@pytest.mark.parametrize("study", COMPARED)
def test_the_tables_are_those_of_the_runs(study):
    found = runs_to_groups.groups_of([curve for curve in runs_to_groups.curves_of(kept(study)) if curve.averaged])
    paired = claims.pairings_of(found)
    answers = claims.verdicts_of(paired)
    waiting = [curve for curve in runs_to_groups.curves_of(kept(study)) if not curve.averaged]
    assert (RESULTS / study / "comparison.md").read_text() == report.markdown(found, waiting, paired, answers)
    kept_numbers = json.loads((RESULTS / study / "comparison.json").read_text())
    assert_close(json.loads(records.as_json(answers, paired)), kept_numbers)
    assert (RESULTS / study / "comparison.csv").read_text() == records.as_csv(found)


def test_the_table_of_the_scaling_is_that_of_the_runs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    scaling = importlib.import_module("residual_scaling")
    table = scaling.table([run.directory for run in kept("residual_scaling")])
    assert table.count("\n") == 17 and table in (ROOT / "docs" / "residual_scaling.md").read_text()
