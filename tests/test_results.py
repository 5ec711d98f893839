"""The results that are published are what this code makes of the runs that are kept beside them."""

from pathlib import Path

import pytest

from inception_jax.compare import curves, groups, pairings, records, report, verdicts
from inception_jax.experiment import load_runs
from inception_jax.runs import read_run

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
STUDIES = sorted(path.name for path in RESULTS.iterdir() if (path / "runs").is_dir())


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # The tables name directories from there.


def kept(study):
    return [
        read_run(path.parent.relative_to(ROOT)) for path in sorted((RESULTS / study / "runs").glob("*/config.json"))
    ]


def test_there_are_results():
    assert STUDIES


@pytest.mark.parametrize("study", STUDIES)
def test_the_runs_are_whole_and_the_experiments_as_they_are(study):
    asked = load_runs(ROOT / "experiments" / f"{study}.py")
    runs = {run.info.name: run for run in kept(study)}
    assert set(runs) == set(asked)
    for name, run in runs.items():
        wanted, ran = asked[name], run.experiment
        assert (wanted.seed, wanted.optim, wanted.train) == (ran.seed, ran.optim, ran.train), name
        assert wanted.model.name == ran.model.name and wanted.model.depths == ran.model.depths, name
        assert wanted.data.source == ran.data.source and wanted.data.training_images == run.info.training_images, name


@pytest.mark.parametrize("study", [s for s in STUDIES if (RESULTS / s / "comparison.md").exists()])
def test_the_tables_are_those_of_the_runs(study):
    found = groups.groups_of([curve for curve in curves.curves_of(kept(study)) if curve.averaged])
    paired = pairings.pairings_of(found)
    answers = verdicts.verdicts_of(paired)
    waiting = [curve for curve in curves.curves_of(kept(study)) if not curve.averaged]
    assert (RESULTS / study / "comparison.md").read_text() == report.markdown(found, waiting, paired, answers)
    assert (RESULTS / study / "comparison.json").read_text() == records.as_json(answers, paired)
    assert (RESULTS / study / "comparison.csv").read_text() == records.as_csv(found)
