"""Evaluation, prediction and export of a run on a folder of one's own: which images, which checkpoint, which errors."""

import json

import jax
import numpy as np
import pytest
from helpers import SMALL, Shallow, changed
from test_own_pictures import write_pets

from inception_jax import checkpoint, models, train
from inception_jax.cli import main
from inception_jax.runs import read_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on folder:pets, with checkpoints of steps 2 and 4."""
    root = tmp_path_factory.mktemp("own")
    write_pets(root / "pets")
    experiment = changed(
        SMALL,
        model={"name": "shallow", "width": 1.0, "depths": None},
        data={"source": "folder:pets", "colour": False},
        optim={"learning_rate": 0.01},
        train={"steps": 4, "checkpoint_every": 2},
        evaluation={"every_epochs": 100.0},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models._NETWORKS, "shallow", models.Entry(Shallow, aux_head=True, residual=False))
        patch.chdir(root)
        train.fit(experiment, "run")
        yield root


def test_an_evaluation_finds_moved_images_through_data_or_says_so(trained, tmp_path, monkeypatch, capfd):
    run, moved = str(trained / "run"), f"folder:{write_pets(tmp_path / 'elsewhere')}"
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", run]) == 2
    err = capfd.readouterr().err
    assert run in err and "folder:pets" in err and "--data" in err and err.count("\n") == 1
    assert main(["evaluate", run, "--data", moved, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["models"][0]["matched_by"] == "name" and found["present_classes"] == 3
    # A class more, which the network does not know.
    write_pets(tmp_path / "elsewhere", ["ant"])
    assert main(["evaluate", run, "--data", moved]) == 2
    assert "'ant'" in capfd.readouterr().err


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export"])
def test_best_takes_the_checkpoint_with_the_lowest_validation_error(trained, verb, monkeypatch, capfd, tmp_path):
    run, exported = trained / "run", []
    monkeypatch.setattr(checkpoint.training, "_top1_error", lambda path: {"2": 0.1, "4": 0.5}[path.name])

    def export(trained, *arguments, **options):
        exported.append(trained)
        return 0.0

    monkeypatch.setattr("inception_jax.weights.export.export_checkpoint", export)
    rest = {
        "evaluate": ["--json"],
        "predict": [trained / "pets" / "fox" / "03.jpg", "--json"],
        "export": [tmp_path / "x", "--format", "orbax"],
    }

    def answer(path, *flags):
        assert main([verb, *map(str, [path, *rest[verb], *flags])]) == 0
        out, err = capfd.readouterr()
        if verb == "export":
            return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(exported[-1].variables)]).tolist(), err
        found = json.loads(out)
        return found["predictions"] if verb == "predict" else found["models"][0]["checksum"], err

    newest, said = answer(run)
    best, nothing = answer(run, "--best")
    assert "--best" in said and "step 2" in said and "--best" not in nothing
    one, another, named = (answer(run / "checkpoints" / step)[0] for step in ("2", "4", "best"))
    assert best == named == one != another == newest


def test_there_is_no_top_5_error_of_three_classes(trained):
    lines = read_run(trained / "run").metrics
    assert {line["split"] for line in lines} == {"train", "validation"}
    assert all("top1_error" in line and "top5_error" not in line for line in lines)
