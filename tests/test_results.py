"""The published results agree with the published runs and with this code."""

import importlib
import json
import runpy
from pathlib import Path

import pytest

from inception_jax.cli.experiment_files import load_runs
from inception_jax.config import PRETRAINED, differences
from inception_jax.runs import read_run

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
REMAKE = runpy.run_path(str(RESULTS / "remake.py"))
STUDIES = ["residual_scaling", *REMAKE["STUDIES"]]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # Directories in the tables are relative to it.


def published_runs(study):
    return [read_run(path.relative_to(ROOT)) for path in sorted((RESULTS / study / "runs").iterdir())]


@pytest.mark.parametrize("study", STUDIES)
def test_the_runs_are_finished_and_those_of_the_experiment(study):
    experiments = load_runs(ROOT / "experiments" / f"{study}.py")
    runs = {run.info.name: run for run in published_runs(study)}
    assert set(runs) == set(experiments)
    for name, run in runs.items():
        assert run.finished, name
        # The number of classes comes from the data set, a pretrained network from its weights.
        pretrained = experiments[name].model.name == PRETRAINED
        settled = {"model.num_classes", *(("model.name", "model.width") if pretrained else ())}
        assert set(differences(experiments[name], run.experiment)) <= settled, name
        assert experiments[name].train == run.experiment.train, name
        assert experiments[name].data.training_images == run.info.training_images, name


def assert_close(ours, published, path="comparison.json"):
    """Assert equality up to rounding: SciPy's quantiles and p values differ in the last digit between versions."""
    if isinstance(published, float):
        assert ours == pytest.approx(published, rel=1e-9, abs=1e-12), path
    elif isinstance(published, dict | list):
        assert type(ours) is type(published) and len(ours) == len(published), path
        for key in published if isinstance(published, dict) else range(len(published)):
            assert_close(ours[key], published[key], f"{path}/{key}")
    else:
        assert ours == published, path


@pytest.mark.parametrize("study", REMAKE["STUDIES"])
def test_the_comparisons_agree_with_the_runs(study, tmp_path):
    REMAKE["remake"](study, tmp_path)
    published = RESULTS / study
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in published.iterdir()} - {"runs"}
    for name in ("comparison.md", "comparison.csv"):
        assert (tmp_path / name).read_text() == (published / name).read_text(), name
    ours, theirs = (json.loads((folder / "comparison.json").read_text()) for folder in (tmp_path, published))
    assert_close(ours, theirs)


def test_the_table_of_residual_scaling_agrees_with_the_runs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    scaling = importlib.import_module("residual_scaling")
    table = scaling.table([run.directory for run in published_runs("residual_scaling")])
    assert table.count("\n") == 17 and table in (ROOT / "docs" / "residual_scaling.md").read_text()


def test_the_table_of_fine_tuning_agrees_with_the_runs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    study = importlib.import_module("finetune_digits")
    errors = study.final_errors(RESULTS / "finetune_digits" / "runs")
    assert {len(seeds) for seeds in errors.values()} == {3}
    assert study.table(errors) in (ROOT / "docs" / "finetuning.md").read_text()
