"""A folder of one's own pictures, from training to prediction: what was learnt stays with the weights."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
from helpers import SMALL, changed
from PIL import Image

from inception_jax import build, checkpoint, train
from inception_jax.data import Protocol
from inception_jax.errors import UserError
from inception_jax.evaluation import EvaluationOptions, evaluate
from inception_jax.evaluation.members import load_member
from inception_jax.evaluation.run_networks import choose_data, open_images
from inception_jax.predict import Predictor
from inception_jax.train import start
from inception_jax.weights.checkpoint import load_checkpoint, save_checkpoint

COLOURS = {"cat": (200, 60, 60), "dog": (60, 200, 60), "fox": (60, 60, 200), "ant": (20, 20, 20)}


def write_pets(folder, classes=("cat", "dog", "fox"), count=20, seed=0):
    """FOLDER/CLASS/NUMBER.jpg, each class of its own colour."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 25, (80, 90, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.jpg")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Pictures, and a run of a few steps on them."""
    root = tmp_path_factory.mktemp("pets")
    write_pets(root / "pets")
    train.fit(of(root / "pets"), root / "run")
    return root


@pytest.fixture
def pets(trained, tmp_path):
    """A copy of both, which may be changed."""
    return shutil.copytree(trained, tmp_path / "copy")


def of(folder, **parts):
    data = {"source": f"folder:{folder}", "colour": False, **parts.pop("data", {})}
    still = {"steps": 4, "checkpoint_every": 2, **parts.pop("train", {})}
    return changed(SMALL, data=data, train=still, evaluation={"every_epochs": 100.0}, **parts)


def answers(checkpoint, *images):
    return [[found.name for found in classes] for classes in Predictor(checkpoint, batch_size=1)(images)]


def add_a_class(folder):
    write_pets(folder, ["ant"], 5)


def remove_two_classes(folder):
    shutil.rmtree(folder / "cat")
    shutil.rmtree(folder / "dog")


def move_the_folder(folder):
    folder.rename(folder.with_name("elsewhere"))


@pytest.mark.parametrize("change", [add_a_class, remove_two_classes, move_the_folder])
def test_a_run_keeps_the_names_that_it_was_trained_with(pets, trained, change, monkeypatch, tmp_path):
    fox = trained / "pets" / "fox" / "03.jpg"
    before = answers(pets / "run", fox)
    change(pets / "pets")
    # No data set is listed, wherever it is.
    monkeypatch.setattr("inception_jax.build.source", lambda *arguments: pytest.fail("a data set was opened"))
    assert answers(pets / "run", fox) == before
    assert load_checkpoint(pets / "run").preprocessing.class_names == ("cat", "dog", "fox")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add_a_class, ["'ant' is new"]),
        (lambda folder: shutil.rmtree(folder / "cat"), ["'cat' is gone"]),
        (lambda folder: (folder / "fox").rename(folder / "wolf"), ["'fox' is gone", "'wolf' is new"]),
    ],
)
def test_a_run_is_not_resumed_on_other_classes(pets, change, named):
    folder = write_pets(pets / "pets")
    change(folder)
    before = (pets / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError) as error:
        train.fit(of(folder, train={"steps": 6}), pets / "run")
    assert all(words in str(error.value) for words in named) and "--init-from" in str(error.value)
    assert (pets / "run" / "metrics.jsonl").read_bytes() == before


def test_moved_images_are_found_in_their_new_place(pets, capfd):
    move_the_folder(pets / "pets")
    with pytest.raises(UserError, match=r"pets does not exist.*--data\.source"):
        train.fit(of(pets / "pets", train={"steps": 6}), pets / "run")
    run = train.fit(of(pets / "elsewhere", train={"steps": 6}), pets / "run")
    assert run.finished and run.experiment.data.source == f"folder:{pets / 'elsewhere'}"
    assert "the training set had" not in capfd.readouterr().err


def held_out(run):
    """Names of the images that `evaluate RUN` takes."""
    member = load_member(str(run), Protocol(1, ()), raw=False, best=False, image_size=None)
    source = open_images(choose_data([member], EvaluationOptions()), [member], EvaluationOptions())
    return {"/".join(source.name(i).split("/")[-2:]) for i in range(len(source))}


def test_the_images_held_out_stay_so_when_others_come_and_go(pets, capfd):
    folder = pets / "pets"
    for copy in ("000", "20"):
        shutil.copy(folder / "cat/05.jpg", folder / f"cat/{copy}.jpg")
    (folder / "dog/00.jpg").unlink()
    train.fit(of(folder, train={"steps": 6}), pets / "run")
    said = capfd.readouterr().err
    assert "had 54 images and has 55" in said and "were held out" not in said
    before = {f"{name}/{number}.jpg" for name in ("cat", "dog", "fox") for number in ("01", "11")}
    assert held_out(pets / "run") == before and len(checkpoint.read(pets / "run").held_out) == 6


@pytest.mark.parametrize(
    ("change", "source", "words"),
    [
        (lambda saved: saved, "folder:pets", None),
        (lambda saved: frozenset(), "folder:pets", "does not say which images were held out"),
        (lambda saved: frozenset([1, 2]), "folder:pets", "none of the 2 images"),
        (lambda saved: saved | {1}, "folder:pets", "1 of the 7 images that were held out are gone"),
        (lambda saved: saved | {1}, "folder:divided", "7 images were held out and folder:divided has 6"),
    ],
)
def test_a_run_says_when_it_validates_on_other_images(trained, change, source, words, monkeypatch):
    monkeypatch.chdir(trained)
    saved = checkpoint.read("run")
    saved = dataclasses.replace(saved, held_out=change(saved.held_out), training_images=55)
    experiment = of("")
    experiment = changed(experiment, data={"source": source})
    if source == "folder:divided":
        write_pets(trained / "divided/train", count=18)
        write_pets(trained / "divided/val", count=2)
    training, validation = (build.source(experiment, split, saved.held_out) for split in ("train", "validation"))
    notes = []
    start.same_data(saved, experiment, training, validation, notes.append)
    assert len(notes) == (1 if words is None else 2) and (words is None or words in notes[1]), notes


def test_a_resumed_run_says_that_its_splits_have_other_names(trained):
    notes = []
    resumed, _ = start.settle(of(trained / "pets", data={"train_split": "photos"}), trained / "run", notes.append)
    assert resumed.data.train_split == "photos" and len(notes) == 1
    assert "data.train_split was None and is 'photos' now" in notes[0]


@pytest.mark.parametrize("place", ["run", "run/checkpoints/4"])
def test_a_run_from_anothers_weights_says_which_images_these_may_have_been_trained_on(trained, place):
    experiment = of(trained / "pets", train={"init_from": str(trained / place)})
    weights, images = load_checkpoint(trained / place), build.source(experiment, "train")
    setup = build.build(build.with_classes(experiment, 3), len(images))
    for held_out, number in ((images.held_out, 0), (images.held_out | {1, 2}, 2), (frozenset([1]), 0)):
        notes = []
        start.first_state(setup, None, weights, dataclasses.replace(images, held_out=held_out), notes.append)
        assert len(notes) == (2 if number else 1) and (not number or "2 of the 8" in notes[1])


def test_the_weights_bring_their_preprocessing_along(trained, tmp_path, capfd):
    source = load_checkpoint(trained / "run")
    preprocessing = dataclasses.replace(
        source.preprocessing,
        central_fraction=0.6,
        resize="antialiased_bicubic",
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
    )
    model = source.model.clone(count_include_pad=True)
    save_checkpoint(tmp_path / "weights", model, source.variables, preprocessing)
    frozen = {"init_from": str(tmp_path / "weights"), "steps": 1}
    experiment = of(trained / "pets", train=frozen, optim={"learning_rate": 1e-9}, data={"resize": "area"})
    run = train.fit(experiment, tmp_path / "next")
    written = capfd.readouterr().err
    assert all(words in written for words in ("data.mean (0.4, 0.5, 0.6)", "model.count_include_pad True"))
    assert re.search("by hand.* data.resize area .*antialiased_bicubic", written)
    assert run.experiment.data.std == (0.2, 0.3, 0.4) and run.experiment.data.resize == "area"
    assert load_checkpoint(tmp_path / "next").preprocessing == dataclasses.replace(preprocessing, resize="area")
    # Validation prepared the images so, too.
    (line,) = (m for m in run.metrics if m.get("parameters") == "averaged")
    (model_report,) = evaluate([str(tmp_path / "next")], EvaluationOptions(tta_batch=128))["models"]
    assert model_report["loss"] == pytest.approx(line["loss"], rel=1e-4)
    # The same command resumes it, also where the first weights are gone, as they may be by then.
    shutil.rmtree(tmp_path / "weights")
    again = train.fit(changed(experiment, train={"steps": 2}), tmp_path / "next")
    assert again.finished and again.experiment.data.std == (0.2, 0.3, 0.4)


def test_weights_that_were_not_imported_are_told_how(tmp_path, trained):
    (tmp_path / "v4.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="train.init_from.*v4.safetensors.*inception-jax import"):
        train.fit(of(trained / "pets", train={"init_from": str(tmp_path / "v4.safetensors")}), tmp_path / "run")


def test_a_directory_without_a_checkpoint_is_free(pets, capfd):
    shutil.rmtree(pets / "run" / "checkpoints")
    run = train.fit(of(pets / "pets", optim={"learning_rate": 0.001}, train={"steps": 1}), pets / "run")
    assert run.finished and run.experiment.optim.learning_rate == 0.001
    assert re.search("run holds another experiment without a checkpoint", capfd.readouterr().err)


def test_other_settings_are_refused_with_a_way_on(pets):
    with pytest.raises(UserError, match=r"optim.learning_rate.*--init-from"):
        train.fit(of(pets / "pets", optim={"learning_rate": 0.001}), pets / "run")


def test_the_first_lines_of_a_run_say_how_the_folder_was_understood(pets, capfd):
    folder = write_pets(pets / "split" / "train", ("2023", "2024"), 0)
    write_pets(folder / "2023", ("cat", "dog"), 4)
    write_pets(folder / "2024", ("cat", "dog"), 4)
    shutil.copytree(folder, pets / "split" / "valid")
    shutil.copytree(folder, pets / "split" / "test")
    (folder / "2023" / "cat" / "Thumbs.db").write_bytes(b"")
    (pets / "split" / "list.csv").write_bytes(b"")
    train.fit(of(pets / "split", train={"steps": 1}), pets / "other")
    lines = capfd.readouterr().err.splitlines()
    first = next(line for line in lines if line.startswith(f"  folder:{pets / 'split'}: "))
    for words in (
        "2 classes (2023, 2024)",
        "training images in train/",
        "validation images in valid/",
        "test/ not used",
    ):
        assert words in first
    assert "1 .csv" in first and "1 Thumbs.db" in first
    assert any("'cat', 'dog'" in line and "classes" in line for line in lines)


def test_moved_images_are_evaluated_without_those_trained_on(pets, capfd):
    # The run's own are in the directory that this one is a copy of.
    moved = evaluate([str(pets / "run")], EvaluationOptions(data=f"folder:{pets / 'pets'}"))
    assert moved["images"] == 6 and "held out" in capfd.readouterr().err
    write_pets(pets / "other", count=7)
    other = evaluate([str(pets / "run")], EvaluationOptions(data=f"folder:{pets / 'other'}"))
    assert other["images"] == 21
