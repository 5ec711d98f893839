"""The promise of the file format: this version reads what the version of each earlier format wrote."""

import dataclasses
import hashlib
import json
import re
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from inception_jax import checkpoint, runs
from inception_jax.errors import UserError
from inception_jax.evaluation import EvaluationOptions, evaluate, predictions
from inception_jax.system.file_format import FORMAT
from inception_jax.train import fit
from inception_jax.weights.checkpoint import load_checkpoint
from inception_jax.weights.importer import import_checkpoint

FORMAT_1 = Path(__file__).parent / "golden" / "format_1.tar.xz"


@pytest.fixture
def files(tmp_path):
    """The files of format 1, unpacked: tests/golden/make_format_1.py made them."""
    with tarfile.open(FORMAT_1) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "format_1"


def numbers(files):
    return json.loads((files / "numbers.json").read_text())


def test_the_files_are_small_and_carry_their_format(files):
    assert FORMAT_1.stat().st_size < 300_000
    stamped = [*files.glob("*/config.json"), *files.rglob("run.json"), files / "exported" / "checkpoint.json"]
    assert [json.loads(path.read_text())["format"] for path in stamped] == [1] * 5


def test_a_finished_run_is_left_alone_and_evaluates_to_its_numbers(files):
    before = runs.read_run(files / "finished")
    assert before.finished and fit(before.experiment, files / "finished") == before
    for path in ("finished", "exported"):
        summary = evaluate([str(files / path)], EvaluationOptions(data="digits", image_size=75))
        assert summary["models"][0]["top1_error"] == pytest.approx(numbers(files)["digits_top1_error"], abs=0.01)


def test_a_run_stopped_half_way_is_resumed_to_the_numbers_of_the_finished_one(files):
    half = runs.read_run(files / "half")
    assert not half.finished and checkpoint.read(files / "half").step == 3
    resumed, finished = fit(half.experiment, files / "half"), runs.read_run(files / "finished")
    assert resumed.finished and len(resumed.metrics) == len(finished.metrics)
    for ours, theirs in zip(resumed.metrics, finished.metrics, strict=True):
        assert (ours["step"], ours["split"]) == (theirs["step"], theirs["split"])
        if ours["split"] == "train":
            # Another JAX or another processor sums in another order.
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_the_exports_are_the_finished_runs_network(files, tmp_path):
    run, exported = load_checkpoint(files / "finished"), load_checkpoint(files / "exported")
    import_checkpoint(
        str(files / "exported.safetensors"), tmp_path / "imported", "inception_resnet_v1", format="inception_jax"
    )
    for other in (exported, load_checkpoint(tmp_path / "imported")):
        # The first files of format 1 have the names of the classes in exports alone.
        assert dataclasses.replace(other.preprocessing, class_names=()) == run.preprocessing
        jax.tree.map(np.testing.assert_array_equal, dict(other.variables), dict(run.variables))
        images = np.float32(np.linspace(-1, 1, 2 * 75 * 75 * 3)).reshape(2, 75, 75, 3)
        logits = other.model.apply(other.variables, images, train=False)
        np.testing.assert_allclose(logits, numbers(files)["logits"], rtol=1e-4, atol=1e-5)


def rewrite_sums(directory):
    lines = [line.split("  ")[1] for line in (directory / "SHA256SUMS").read_text().splitlines()]
    sums = [f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n" for name in lines]
    (directory / "SHA256SUMS").write_text("".join(sums))


def set_format(path, value):
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": value}))
    if (path.parent / "SHA256SUMS").exists():
        rewrite_sums(path.parent)


READ = {
    "finished/config.json": lambda files: runs.read_run(files / "finished"),
    "half/checkpoints/3/run.json": lambda files: load_checkpoint(files / "half"),
    "exported/checkpoint.json": lambda files: load_checkpoint(files / "exported"),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("value, advice", [(FORMAT + 1, "upgrade"), ("1", "number"), (0, "number"), (True, "number")])
def test_an_unknown_format_is_refused_by_file_and_number(files, name, value, advice):
    set_format(files / name, value)
    with pytest.raises(UserError, match=f"{name} .*{re.escape(repr(value))}.*{advice}"):
        READ[name](files)


def test_a_newer_run_is_neither_trained_nor_moved_away(files):
    experiment = runs.read_run(files / "half").experiment
    set_format(files / "half" / "checkpoints" / "3" / "run.json", FORMAT + 1)
    with pytest.raises(UserError, match="upgrade"):
        fit(experiment, files / "half")
    assert [path.name for path in (files / "half" / "checkpoints").iterdir()] == ["3"]
    assert not (files / "half" / "broken-checkpoints").exists()


def test_newer_weights_and_predictions_are_refused(files, tmp_path):
    source = files / "exported.safetensors"
    with safetensors.safe_open(source, "numpy") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert metadata["inception_jax.file_format"] == "1"
    save_file(arrays, source, metadata | {"inception_jax.file_format": str(FORMAT + 1)})
    with pytest.raises(UserError, match="exported.safetensors .*upgrade"):
        import_checkpoint(str(source), tmp_path / "out", "inception_resnet_v1", format="inception_jax")
    path = tmp_path / "predictions.npz"
    np.savez(path, metadata=np.array(json.dumps({"format": FORMAT + 1})))
    with pytest.raises(UserError, match="predictions.npz .*upgrade"):
        predictions.read(path)


def test_files_written_before_formats_were_numbered_are_read(files):
    path = files / "finished" / "config.json"
    values = json.loads(path.read_text())
    del values["format"]
    path.write_text(json.dumps(values))
    assert runs.read_run(files / "finished").finished
