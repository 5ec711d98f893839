"""Checkpoints for use: importing, loading, predicting, starting from one."""

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
from inception_jax.weights.checkpoint import TrainedModel, load_checkpoint, save_checkpoint, transfer

safetensors = pytest.importorskip("safetensors.numpy")

GOLDEN = Path(__file__).parent / "golden"


def small(name="inception_resnet_v2", classes=10, **options):
    return create_model(name, num_classes=classes, width=0.1, depths=(1, 1, 1), **options)


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same(a, b):
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for name, leaf in a.items():
        np.testing.assert_array_equal(leaf, b[name], err_msg=name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small network with class names and a preparation of its own."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoint"
    model = small()
    names = tuple(f"digit {i}" for i in range(10))
    prepared = Preprocessing(80, 0.9, "bicubic", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), class_names=names)
    variables = initial_variables(model, 0, 75)
    save_checkpoint(directory, model, variables, prepared)
    return directory, model, variables, prepared


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


def test_saving_and_loading_gives_everything_back(saved):
    directory, model, variables, prepared = saved
    loaded_model, loaded, loaded_prepared = load_checkpoint(directory)
    assert (loaded_model, loaded_prepared) == (model, prepared)
    assert_same(loaded, variables)


@pytest.mark.parametrize("name", list_models())
def test_describe_is_the_inverse_of_create_model(name):
    model = create_model(name, num_classes=7, width=0.5, dtype="bfloat16", dropout_rate=0.1, count_include_pad=True)
    again = create_model(**json.loads(json.dumps(describe(model))))
    assert again == model and describe(again)["name"] == name


def test_a_failed_save_leaves_the_old_checkpoint(saved, tmp_path, monkeypatch):
    _, model, variables, prepared = saved
    save_checkpoint(tmp_path / "c", model, variables, prepared)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunFailed, match=f"could not be written to {tmp_path}/c: No space left on device; free some"):
        save_checkpoint(tmp_path / "c", model, initial_variables(model, 5, 75), prepared)
    monkeypatch.undo()
    assert_same(load_checkpoint(tmp_path / "c")[1], variables)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_directory_that_is_no_checkpoint_is_not_replaced(saved, tmp_path):
    _, model, variables, prepared = saved
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("words")
    with pytest.raises(UserError, match="exists and is not an exported checkpoint"):
        save_checkpoint(tmp_path / "thesis", model, variables, prepared)
    assert (tmp_path / "thesis" / "chapter").read_text() == "words"


def run(capfd, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capfd.readouterr()
    return code, out, err


def test_predict_gives_the_networks_probabilities(saved, pictures, capfd):
    directory, model, variables, prepared = saved
    code, out, _ = run(capfd, "predict", directory, *pictures, "--top", 3, "--batch-size", 2, "--json")
    predictions = json.loads(out)["predictions"]
    assert code == 0 and [p["image"] for p in predictions] == [str(p) for p in pictures]
    png = predictions[1]  # 80x80, so cropping its 72x72 centre and resizing is all that is done to it
    import cv2

    pixels = cv2.resize(np.asarray(Image.open(pictures[1]))[4:76, 4:76], (80, 80), interpolation=cv2.INTER_CUBIC)
    x = (pixels / 255 - np.array(prepared.mean)) / np.array(prepared.std)
    expected = jax.nn.softmax(jax.jit(model.apply)(variables, jnp.asarray(x[None], jnp.float32))[0])
    best = np.argsort(-np.asarray(expected))[:3]
    assert [c["index"] for c in png["classes"]] == list(best)
    assert [c["name"] for c in png["classes"]] == [f"digit {i}" for i in best]
    np.testing.assert_allclose([c["probability"] for c in png["classes"]], expected[best], rtol=1e-3)


def test_a_broken_picture_is_named_and_the_others_are_answered(saved, pictures, capfd, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(pictures[0].read_bytes()[:500])
    arguments = ["predict", saved[0], pictures[0], tmp_path / "broken.jpg", tmp_path / "none.jpg", pictures[2]]
    code, out, err = run(capfd, *arguments)
    assert code == 1
    assert "broken.jpg" in err and "none.jpg cannot be read: No such file or directory." in err
    assert out.count("digit") == 10 and str(pictures[2]) in out and "Traceback" not in err


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory):
    """timm's Inception-v3 with 1001 labels and timm's configuration beside it, as a hub has it."""
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
def test_importing_keeps_weights_and_preparation_and_drops_the_background(timm_file, tmp_path, capfd):
    path, arrays = timm_file
    code, out, _ = run(capfd, "import", path, tmp_path / "v3", "--model", "inception_v3")
    assert (
        code == 0 and "inception_v3 with 1001 classes; images of 75 pixels, central 0.95, antialiased_bilinear" in out
    )
    model, variables, prepared = load_checkpoint(tmp_path / "v3")
    assert (prepared.label_offset, prepared.mean, prepared.std) == (1, (0.1,) * 3, (0.5,) * 3)
    assert model.count_include_pad
    np.testing.assert_array_equal(variables["params"]["classifier"]["kernel"], arrays["fc.weight"].T)

    names = tmp_path / "names.txt"
    names.write_text("".join(f"class number {i}\n" for i in range(1000)))
    more = ["--drop-background", "--class-names", names]
    assert run(capfd, "import", path, tmp_path / "cut", "--model", "inception_v3", *more)[0] == 0
    model, variables, prepared = load_checkpoint(tmp_path / "cut")
    assert (model.num_classes, prepared.label_offset, prepared.class_names[999]) == (1000, 0, "class number 999")
    np.testing.assert_array_equal(variables["params"]["classifier"]["kernel"], arrays["fc.weight"].T[:, 1:])
    np.testing.assert_array_equal(variables["params"]["classifier"]["bias"], arrays["fc.bias"][1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("FILE", "--model", "inception_v4"), "missing: features.0.conv.weight (32, 3, 3, 3)"),
        (("FILE", "--model", "inception_v5"), "timm has no inception_v5; of our networks it has inception_v3"),
        (("FILE", "--model", "inception_v3", "--format", "onnx"), "no format 'onnx'; there are timm, keras, facenet"),
        (("nowhere.safetensors", "--model", "inception_v3"), "there is no file nowhere.safetensors"),
        (("hf://timm/inception_v4.tf_in1k", "--model", "inception_v4"), "needs huggingface_hub, which is not"),
    ],
)
def test_what_cannot_be_imported_is_said_and_nothing_is_written(
    timm_file, tmp_path, capfd, monkeypatch, arguments, message
):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # Where it is installed, this would ask the network.
    arguments = [str(timm_file[0]) if a == "FILE" else a for a in arguments]
    code, _, err = run(capfd, "import", arguments[0], tmp_path / "out", *arguments[1:])
    assert code == 2 and message in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_background_and_names_must_be_there_to_be_dropped_or_given(saved, tmp_path):
    _, model, variables, prepared = saved
    with pytest.raises(UserError, match="no background to drop: the head has 10 classes"):
        importer.without_background(TrainedModel(model, variables, prepared))
    (tmp_path / "names").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="has 2 lines, but the network has 10 classes"):
        importer._read_class_names(str(tmp_path / "names"), model, prepared)


@pytest.mark.slow
def test_imported_weights_see_every_crop_of_real_photographs(timm_file, tmp_path, capfd):
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
            # Without the background of the 1001.
            assert found[-1].shape == (2, 1000)
    np.testing.assert_allclose(np.sum(found, axis=-1), 1, atol=1e-5)
    for one, other in ((0, 1), (1, 2)):
        assert np.abs(found[one] - found[other]).max() > 1e-6


def test_what_was_exported_here_comes_back_with_its_preparation(saved, tmp_path, capfd):
    directory, model, variables, prepared = saved
    file = tmp_path / "own.safetensors"
    assert run(capfd, "export", directory, file, "--format", "safetensors")[0] == 0
    arguments = ["--model", "inception_resnet_v2", "--format", "inception_jax"]
    code, _, err = run(capfd, "import", file, tmp_path / "again", *arguments)
    assert code == 0, err
    again = load_checkpoint(tmp_path / "again")
    assert (again[0], again[2]) == (model, prepared)
    assert_same(again[1], variables)


@pytest.mark.slow
def test_keras_files_are_imported_uncropped(tmp_path, capfd):
    model = create_model("inception_v3")
    variables = initial_variables(model, 0, 75)
    weights.save_weights(tmp_path / "v3.weights.h5", model, variables, format="keras")
    arguments = ["--model", "inception_v3", "--format", "keras"]
    code, out, err = run(capfd, "import", tmp_path / "v3.weights.h5", tmp_path / "v3", *arguments)
    assert code == 0 and "1000 classes; images of 299 pixels, central 1, bilinear" in out, err
    assert_same(load_checkpoint(tmp_path / "v3")[1], variables)


def test_transfer_takes_the_trunk_and_where_it_fits_the_head(saved):
    directory, model, variables, _ = saved
    fresh = initial_variables(model, 1, 75)
    same, new_head = transfer(directory, model, fresh)
    assert not new_head
    assert_same(same, variables)
    other = small(classes=4)
    fresh = initial_variables(other, 1, 75)
    moved, new_head = transfer(directory, other, fresh)
    assert new_head
    assert_same(moved["params"]["classifier"], fresh["params"]["classifier"])
    assert_same(moved["params"]["block_a_1"], variables["params"]["block_a_1"])
    assert_same(moved["batch_stats"], variables["batch_stats"])


def test_transfer_names_everything_that_does_not_fit(saved):
    model = small("inception_resnet_v2").clone(depths=(2, 1, 1))
    with pytest.raises(UserError) as error:
        transfer(saved[0], model, initial_variables(model, 0, 75))
    message = str(error.value)
    assert "does not fit this inception_resnet_v2" in message
    assert message.count("params/block_a_2/") == 6 * 3 + 2 and "block_a_1/" not in message


def test_a_new_head_is_announced(timm_file, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        importer.import_checkpoint(str(timm_file[0]), tmp_path / "five", "inception_v3", format="timm", num_classes=5)
    assert "the classifier is new: 5 classes" in caplog.text
    assert load_checkpoint(tmp_path / "five")[0].num_classes == 5
