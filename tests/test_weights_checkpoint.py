"""Checkpoints for inference: import, loading, prediction."""

import json
import logging
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle_rng
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from inception_jax import weights
from inception_jax.cli import main
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import RunFailed, UserError
from inception_jax.models import create_model, describe, list_models
from inception_jax.models.initialize import initial_variables
from inception_jax.weights import importer
from inception_jax.weights.checkpoint import TrainedModel, load_checkpoint, save_checkpoint

safetensors = pytest.importorskip("safetensors.numpy")

GOLDEN = Path(__file__).parent / "golden"


def small(name="inception_resnet_v2", classes=10, **options):
    return create_model(name, num_classes=classes, width=0.1, depths=(1, 1, 1), **options)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small network with class names and preprocessing of its own."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoint"
    model = small()
    names = tuple(f"digit {i}" for i in range(10))
    preprocessing = Preprocessing(80, 0.9, "bicubic", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), class_names=names)
    variables = initial_variables(model, 0, 75)
    save_checkpoint(directory, model, variables, preprocessing)
    return directory, model, variables, preprocessing


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = []
    for i, size in enumerate([(200, 120), (80, 80), (31, 400)]):
        pixels = np.kron(
            rng.integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8), np.ones((8, 8, 1), np.uint8)
        )
        paths.append(directory / f"{i}.{'png' if i == 1 else 'jpg'}")
        Image.fromarray(pixels[: size[1], : size[0]]).save(paths[-1])
    return paths


def test_checkpoints_are_loaded_as_saved(saved):
    directory, model, variables, preprocessing = saved
    loaded = load_checkpoint(directory)
    assert (loaded.model, loaded.preprocessing) == (model, preprocessing)
    assert_same(loaded.variables, variables)


@pytest.mark.parametrize("name", list_models())
def test_describe_is_the_inverse_of_create_model(name):
    model = create_model(name, num_classes=7, width=0.5, dtype="bfloat16", dropout_rate=0.1, count_include_pad=True)
    again = create_model(**json.loads(json.dumps(describe(model))))
    assert again == model and describe(again)["name"] == name


def test_a_failed_save_leaves_the_old_checkpoint(saved, tmp_path, monkeypatch):
    _, model, variables, preprocessing = saved
    save_checkpoint(tmp_path / "c", model, variables, preprocessing)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunFailed, match=f"{tmp_path}/c.*No space left on device"):
        save_checkpoint(tmp_path / "c", model, initial_variables(model, 5, 75), preprocessing)
    monkeypatch.undo()
    assert_same(load_checkpoint(tmp_path / "c")[1], variables)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_directory_other_than_a_checkpoint_is_not_replaced(saved, tmp_path):
    _, model, variables, preprocessing = saved
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("words")
    with pytest.raises(UserError, match="thesis"):
        save_checkpoint(tmp_path / "thesis", model, variables, preprocessing)
    assert (tmp_path / "thesis" / "chapter").read_text() == "words"


def run(capfd, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capfd.readouterr()
    return code, out, err


def test_predict_gives_the_networks_probabilities(saved, pictures, capfd):
    directory, model, variables, preprocessing = saved
    code, out, _ = run(capfd, "predict", directory, *pictures, "--top", 3, "--batch-size", 2, "--json")
    predictions = json.loads(out)["predictions"]
    assert code == 0 and [p["image"] for p in predictions] == [str(p) for p in pictures]
    png = predictions[1]  # 80x80, so that preprocessing only crops the central 72x72 and resizes
    import cv2

    pixels = cv2.resize(np.asarray(Image.open(pictures[1]))[4:76, 4:76], (80, 80), interpolation=cv2.INTER_CUBIC)
    x = (pixels / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    expected = jax.nn.softmax(jax.jit(model.apply)(variables, jnp.asarray(x[None], jnp.float32))[0])
    best = np.argsort(-np.asarray(expected))[:3]
    assert [c["index"] for c in png["classes"]] == list(best)
    assert [c["name"] for c in png["classes"]] == [f"digit {i}" for i in best]
    np.testing.assert_allclose([c["probability"] for c in png["classes"]], expected[best], rtol=1e-3)


def test_a_broken_picture_is_named_and_the_others_are_predicted(saved, pictures, capfd, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(pictures[0].read_bytes()[:500])
    arguments = ["predict", saved[0], pictures[0], tmp_path / "broken.jpg", tmp_path / "none.jpg", pictures[2]]
    code, out, err = run(capfd, *arguments)
    assert code == 1
    assert "broken.jpg" in err and "none.jpg" in err and "No such file or directory" in err
    assert out.count("digit") == 10 and str(pictures[2]) in out and "Traceback" not in err


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory):
    """timm's Inception-v3 with 1001 labels beside timm's configuration, as on a hub."""
    directory = tmp_path_factory.mktemp("timm")
    state = json.loads((GOLDEN / "timm_inception_v3.json").read_text())["state"]
    arrays = {}
    for entry in state:
        shape = [1001 if entry["name"].startswith("fc.") and i == 0 else n for i, n in enumerate(entry["shape"])]
        arrays[entry["name"]] = oracle_rng.weight(entry["name"], shape, entry["kind"], "OIHW")
    safetensors.save_file(arrays, directory / "model.safetensors")
    configuration = {"input_size": [3, 75, 75], "crop_pct": 0.95, "interpolation": "bilinear", "mean": [0.1] * 3}
    (directory / "config.json").write_text(json.dumps({"pretrained_cfg": configuration}))
    return directory / "model.safetensors", arrays


@pytest.mark.slow
def test_import_keeps_weights_and_preprocessing_and_drops_the_background(timm_file, tmp_path, capfd):
    path, arrays = timm_file
    code, out, _ = run(capfd, "import", path, tmp_path / "v3", "--model", "inception_v3")
    assert code == 0 and all(
        token in out for token in ("inception_v3", " 1001 ", " 75 ", " 0.95", "antialiased_bilinear")
    )
    model, variables, preprocessing = load_checkpoint(tmp_path / "v3")
    assert (preprocessing.label_offset, preprocessing.mean, preprocessing.std) == (1, (0.1,) * 3, (0.5,) * 3)
    assert model.count_include_pad
    np.testing.assert_array_equal(variables["params"]["classifier"]["kernel"], arrays["fc.weight"].T)

    names = tmp_path / "names.txt"
    names.write_text("".join(f"class number {i}\n" for i in range(1000)))
    more = ["--drop-background", "--class-names", names]
    assert run(capfd, "import", path, tmp_path / "cut", "--model", "inception_v3", *more)[0] == 0
    model, variables, preprocessing = load_checkpoint(tmp_path / "cut")
    assert (model.num_classes, preprocessing.label_offset, preprocessing.class_names[999]) == (
        1000,
        0,
        "class number 999",
    )
    np.testing.assert_array_equal(variables["params"]["classifier"]["kernel"], arrays["fc.weight"].T[:, 1:])
    np.testing.assert_array_equal(variables["params"]["classifier"]["bias"], arrays["fc.bias"][1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("FILE", "--model", "inception_v4"), "it is timm's inception_v3"),
        (("FILE", "--model", "inception_v5"), "inception_v5"),
        (("FILE", "--model", "inception_v3", "--format", "onnx"), "onnx"),
        (("nowhere.safetensors", "--model", "inception_v3"), "nowhere.safetensors"),
        (("hf://timm/inception_v4.tf_in1k", "--model", "inception_v4"), "huggingface_hub"),
    ],
)
def test_a_failed_import_names_the_cause_and_writes_nothing(
    timm_file, tmp_path, capfd, monkeypatch, arguments, message
):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # Installed, it would download.
    arguments = [str(timm_file[0]) if a == "FILE" else a for a in arguments]
    code, _, err = run(capfd, "import", arguments[0], tmp_path / "out", *arguments[1:])
    assert code == 2 and message in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_background_and_class_names_must_match_the_head(saved, tmp_path):
    _, model, variables, preprocessing = saved
    with pytest.raises(UserError, match="background.* 10 "):
        importer.without_background(TrainedModel(model, variables, preprocessing))
    (tmp_path / "names").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="names.* 2 .* 10 "):
        importer.read_class_names(tmp_path / "names", 10)


@pytest.mark.slow
def test_imported_weights_are_evaluated_on_all_crops_of_photographs(timm_file, tmp_path, capfd):
    assert run(capfd, "import", timm_file[0], tmp_path / "v3", "--model", "inception_v3")[0] == 0
    for number in range(1000):
        (tmp_path / "set" / "train" / f"class {number:03d}").mkdir(parents=True)
    photographs = load_sample_images()
    for number, name, pixels in zip((970, 985), ("china", "flower"), photographs.images, strict=True):
        folder = tmp_path / "set" / "validation" / f"class {number:03d}"
        folder.mkdir(parents=True)
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=95)
    found = []
    for crops in (10, 12, 144):
        kept = tmp_path / f"{crops}.npz"
        arguments = ["evaluate", tmp_path / "v3", "--data", f"folder:{tmp_path}/set", "--crops", crops]
        code, out, err = run(capfd, *arguments, "--save-predictions", kept)
        assert code == 0 and "2 of 2 images" in out and f"(inception_v3) | {crops} |" in out, err
        with np.load(kept) as file:
            assert file["labels"].tolist() == [970, 985] and file["files"][1].endswith("class 985/flower.jpg")
            found.append(file["probabilities"][0])
            # Without the background.
            assert found[-1].shape == (2, 1000)
    np.testing.assert_allclose(np.sum(found, axis=-1), 1, atol=1e-5)
    for one, other in ((0, 1), (1, 2)):
        assert np.abs(found[one] - found[other]).max() > 1e-6


def test_our_own_export_is_imported_with_its_preprocessing(saved, tmp_path, capfd):
    directory, model, variables, preprocessing = saved
    file = tmp_path / "own.safetensors"
    assert run(capfd, "export", directory, file, "--format", "safetensors")[0] == 0
    arguments = ["--model", "inception_resnet_v2", "--format", "inception_jax"]
    code, _, err = run(capfd, "import", file, tmp_path / "again", *arguments)
    assert code == 0, err
    again = load_checkpoint(tmp_path / "again")
    assert (again[0], again[2]) == (model, preprocessing)
    assert_same(again[1], variables)


@pytest.mark.slow
def test_keras_files_are_imported_uncropped(tmp_path, capfd):
    model = create_model("inception_v3")
    variables = initial_variables(model, 0, 75)
    weights.save_weights(tmp_path / "v3.weights.h5", model, variables, format="keras")
    arguments = ["--model", "inception_v3", "--format", "keras"]
    code, out, err = run(capfd, "import", tmp_path / "v3.weights.h5", tmp_path / "v3", *arguments)
    assert code == 0 and all(token in out for token in (" 1000 ", " 299 ", "central 1,", "bilinear")), err
    assert_same(load_checkpoint(tmp_path / "v3")[1], variables)


def test_a_new_head_logs_a_warning(timm_file, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        importer.import_checkpoint(str(timm_file[0]), tmp_path / "five", "inception_v3", format="timm", num_classes=5)
    assert "5 classes" in caplog.text
    assert load_checkpoint(tmp_path / "five")[0].num_classes == 5
