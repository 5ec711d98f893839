"""The paper's evaluation: crops, averages over crops and networks, counts of errors, and resuming."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from conftest import PATIENCE
from helpers import Shallow, finish, start

from inception_jax import models, steps
from inception_jax.cli import main
from inception_jax.config import DataConfig
from inception_jax.data import Protocol
from inception_jax.data.preprocess import Preprocessing
from inception_jax.data.sources import Record, Source
from inception_jax.errors import BrokenImage, RunFailed, UserError
from inception_jax.evaluation import (
    EvaluationOptions,
    evaluate,
    predictions,
    probabilities,
    report,
    results,
    run_networks,
)
from inception_jax.evaluation.finished_networks import FinishedNetworks
from inception_jax.evaluation.members import Member
from inception_jax.evaluation.predictions import Images, Model, Predictions
from inception_jax.models.initialize import initial_variables
from inception_jax.models.network import Network
from inception_jax.system.preemption import Preemption
from inception_jax.weights.checkpoint import save_checkpoint

MODEL = Model("a", {"name": "reads", "width": 1.0, "depths": None}, None, None, "0", 1, (), 1, 75, 0.875, "bilinear")


class ReadsFirstPixel(Network):
    """Predicts the class whose number is the red of the image's first pixel."""

    @nn.compact
    def __call__(self, images, *, train=False):
        red = jnp.round((images[:, 0, 0, 0] + 1) * 127.5).astype(int)
        return 200.0 * jax.nn.one_hot(red, self.num_classes)


def member(network=None, variables=None, **preprocessing):
    network = network or ReadsFirstPixel(num_classes=256)
    variables = variables or {"params": {}, "batch_stats": {}}
    return Member(MODEL, network, variables, Preprocessing(image_size=75, **preprocessing), None)


def source(*images, classes=256):
    """A source of images in memory, labelled by their numbers; None is a broken image."""

    def read(index):
        if images[index] is None:
            raise BrokenImage(f"the image {index} is broken.")
        return Record(images[index], index, f"image {index}")

    return Source(tuple(map(str, range(classes))), len(images), read)


def predict(members, images, protocol, **data):
    rows = probabilities.rows_per_step(16, protocol)
    indices = np.arange(len(images))
    loader = probabilities.CropLoader(images, indices, protocol, rows, DataConfig(threads=2, prefetch=1, **data))
    found = [probabilities.predict(one, loader, preemption=Preemption()) for one in members]
    (seen, labels, _), *others = found
    assert all((one[0] == seen).all() and (one[1] == labels).all() for one in others)
    return seen, labels, np.stack([values for _, _, values in found])


def ramp(height, width):
    """An image whose red is the number of the column."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = np.arange(width)
    return image


# At 75 pixels the first scale is 86 = round(256 * 75 / 224): only the full square is resized. The first pixel of a crop
# is in its left column, that of its mirror image in the right one, 74 further. The first pixel of the full square reads
# column 0.07, the last 84.9.
CORNERS = [0, 11, 0, 11, 5]
SQUARE = [*CORNERS, 0]
MIRRORED = [74, 85, 74, 85, 79, 85]


@pytest.mark.parametrize(
    ("protocol", "width", "seen"),
    [
        (Protocol(10), 86, [*CORNERS, *MIRRORED[:5]]),
        (Protocol(12), 86, [*SQUARE, *MIRRORED]),
        (Protocol(12), 172, [43 + x for x in [*SQUARE, *MIRRORED]]),
        (Protocol(144, (256,)), 172, [left + x for left in (0, 43, 86) for x in [*SQUARE, *MIRRORED]]),
    ],
)
def test_crops_of_each_protocol_by_their_first_pixels(protocol, width, seen):
    assert len(seen) == protocol.total
    _, labels, found = predict([member()], source(ramp(86, width)), protocol)
    expected = np.bincount(seen, minlength=256) / len(seen)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-6)
    assert labels.tolist() == [0]


def test_a_single_crop_follows_each_networks_preprocessing():
    # The central half of 225 columns starts at column 56; all of them, three per pixel, at column 1.
    members = [
        member(central_fraction=0.5),
        member(central_fraction=1.0),
        member(central_fraction=0.5, mean=(0.5,) * 3),
    ]
    _, _, found = predict(members, source(ramp(225, 225)), Protocol())
    assert found.argmax(-1)[:, 0].tolist() == [56, 1, 56]


def test_every_image_is_counted_once_and_broken_ones_are_skipped_by_all():
    images = [np.full((90, 90, 3), 3 * value, np.uint8) for value in range(1, 8)]
    images[2] = None
    seen, labels, found = predict([member(), member()], source(*images), Protocol(12), on_error="skip")
    assert seen.tolist() == labels.tolist() == [0, 1, 3, 4, 5, 6]
    for one in found:
        assert one.argmax(-1).tolist() == [3, 6, 12, 15, 18, 21]
        np.testing.assert_allclose(one.max(-1), 1, atol=1e-6)
    with pytest.raises(BrokenImage, match="image 2"):
        predict([member()], source(*images), Protocol(12))


def test_softmaxes_rather_than_logits_are_averaged_without_the_background():
    network = Shallow(num_classes=6)
    variables = initial_variables(network, 0, 75)
    # Crops that differ and an undecided network: otherwise both means would agree.
    pixels = np.random.default_rng(0).integers(0, 256, (86, 86, 3), np.uint8)
    pixels[40:, :40] //= 8
    variables["params"]["classifier"]["kernel"] *= 6
    preprocessing = {"label_offset": 1, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    _, _, found = predict([member(network, variables, **preprocessing)], source(pixels, classes=5), Protocol(10))
    views = np.stack([pixels[y : y + 75, x : x + 75] for y, x in ((0, 0), (0, 11), (11, 0), (11, 11), (5, 5))])
    views = (np.concatenate([views, views[:, :, ::-1]]) / 255 - np.array((0.4, 0.5, 0.6))) / np.array((0.2, 0.3, 0.4))
    logits = np.asarray(jax.jit(network.apply)(variables, np.float32(views)), np.float64)[:, 1:]
    by_crop = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(found[0, 0], by_crop.mean(0), rtol=1e-3)
    of_logits = np.exp(logits.mean(0)) / np.exp(logits.mean(0)).sum()
    assert np.abs(of_logits - by_crop.mean(0)).max() > 1e-2


def made(*probabilities, labels=(0, 1), path="a", files=("x", "y"), **model):
    values = np.array(probabilities, np.float32)
    models = tuple(dataclasses.replace(MODEL, path=f"{path}{i}", **model) for i in range(len(values)))
    return Predictions(Images("here", 2), models, np.array(labels, np.int32), np.array(files), values)


def test_an_ensemble_weights_models_equally_whatever_their_crops():
    one = made([[0.6, 0.4], [0.9, 0.1]], views=144)
    other = made([[0.1, 0.9], [0.1, 0.9]], path="b")
    both = predictions.join([one, other])
    assert [result["top1_error"] for result in report.summarize(both)["models"]] == [0.5, 0.5]
    together = results.ensemble(both)
    # 0.35 is less than 0.65, and 0.5 a tie: both count as errors.
    assert together.top1_error == 1.0 and together.loss == pytest.approx(-np.log([0.35, 0.5]).mean(), rel=1e-6)


def test_an_ensemble_of_one_is_the_model():
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(9), 50).astype(np.float32)
    one = Predictions(Images("here", 50), (MODEL,), rng.integers(0, 9, 50), np.array([], str), values[None])
    assert results.ensemble(one) == results.measure(values, one.labels)
    assert report.summarize(one)["ensemble"] is None


def test_errors_are_counted_by_hand_and_ranked_as_in_training():
    values = np.array([[0.1, 0.2, 0.3, 0.1, 0.1, 0.2, 0.0]] * 3 + [[np.nan] * 7], np.float32)
    labels = np.array([2, 1, 6, 0])
    assert results.rank(values, labels).tolist() == [0, 2, 6, 6]
    assert results.rank(values, labels).tolist() == steps.rank(jnp.array(values), jnp.array(labels)).tolist()
    result = results.measure(values[:3], labels[:3])
    assert (result.top1_error, result.top5_error) == (2 / 3, 1 / 3)
    tiny = np.finfo(np.float32).tiny
    assert result.loss == pytest.approx(-np.log([0.3, 0.2, tiny]).mean(), rel=1e-6)
    assert results.measure(values, labels).loss is None
    few = results.measure(np.full((1, 5), 0.2, np.float32), np.array([0]))
    assert (few.top1_error, few.top5_error, few.top5_interval) == (1.0, None, None)


@pytest.mark.parametrize(
    ("wrong", "images", "expected"),
    [(0, 10, (0.0, 0.2775)), (3, 10, (0.1078, 0.6032)), (10, 10, (0.7225, 1.0)), (9647, 48238, (0.1964, 0.2036))],
)
def test_the_interval_is_wilsons(wrong, images, expected):
    # z = 1.96: (fraction + z^2 / 2n +- z sqrt(fraction (1 - fraction) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    assert results.interval(wrong, images) == pytest.approx(expected, abs=5e-5)


def imagenet(names, crops, counted):
    """Report of networks on ImageNet, correct where the label is 0."""
    models = [
        dataclasses.replace(MODEL, network={**MODEL.network, "name": name}, crops=crops, views=crops, image_size=299)
        for name in names
    ]
    answer = np.zeros(1000, np.float32)
    answer[0] = 1
    values = np.broadcast_to(answer, (len(names), counted, 1000))
    labels = np.zeros(counted, np.int32)
    labels[: counted // 5] = 7
    images = Images("tfds:imagenet2012", 50_000, 50_000 - counted, "blacklist" if counted < 50_000 else None)
    return report.summarize(Predictions(images, tuple(models), labels, np.array([], str), values))


def test_the_papers_errors_are_shown_for_its_own_protocols_only():
    found = imagenet(["inception_v4", "inception_resnet_v2_slim"], 1, 48_238)
    assert [m["paper_top1_error"] for m in found["models"]] == [0.2, None]
    lines = report.markdown(found).splitlines()
    assert lines[0].startswith("48,238 of 50,000 images of tfds:imagenet2012; 1,762 excluded by blacklist. ")
    assert lines[4] == "| a (inception_v4) | 1 | 20.00 [19.64, 20.36] | 20.00 [19.64, 20.36] | 17.4662 | 20.0 / 5.0 |"
    assert lines[5].endswith("|  |")
    assert imagenet(["inception_v4"], 1, 50_000)["models"][0]["paper_top1_error"] is None
    assert imagenet(["inception_resnet_v1"], 144, 50_000)["models"][0]["paper_top5_error"] == 0.043
    assert imagenet(["inception_v3"], 10, 50_000)["models"][0]["paper_top1_error"] is None
    assert "paper" not in report.markdown(imagenet(["inception_v3"], 10, 50_000))


def test_the_papers_ensemble_is_one_v4_and_three_resnets():
    found = imagenet(["inception_resnet_v2"] * 3 + ["inception_v4"], 144, 50_000)
    paper = found["ensemble"]["paper_top1_error"], found["ensemble"]["paper_top5_error"]
    assert paper == pytest.approx((0.164, 0.031))
    assert imagenet(["inception_resnet_v2", "inception_v4"], 144, 50_000)["ensemble"]["paper_top1_error"] is None


def test_predictions_are_read_as_written(tmp_path):
    given = made([[0.6, 0.4], [0.9, 0.1]], [[0.5, 0.5], [0.2, 0.8]], scales=(256, 300), step=3, parameters="raw")
    predictions.write(tmp_path / "new" / "p.npz", given)
    again = predictions.read(tmp_path / "new" / "p.npz")
    assert (again.images, again.models) == (given.images, given.models)
    for name in ("labels", "files", "probabilities"):
        ours, theirs = getattr(given, name), getattr(again, name)
        assert ours.dtype == theirs.dtype and (ours == theirs).all()
    with np.load(tmp_path / "new" / "p.npz") as file:
        assert file["models"].tolist() == [
            "a0 (reads, raw parameters of step 3)",
            "a1 (reads, raw parameters of step 3)",
        ]
    assert os.listdir(tmp_path / "new") == ["p.npz"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"labels": (0, 0)}, "image 2 .*class 1.*class 0"),
        ({"files": ("x", "z")}, "image 2 .*y.*z"),
        ({"labels": (0, 1, 1), "files": ("x", "y", "z")}, "2 and 3 images"),
    ],
)
def test_predictions_for_different_images_form_no_ensemble(other, message):
    values = np.full((len(other.get("labels", (0, 1))), 2), 0.5)
    with pytest.raises(UserError, match=f"a0 and b0 .*{message}"):
        predictions.join([made([[0.6, 0.4], [0.9, 0.1]]), made(values, path="b", **other)])


def run(capfd, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capfd.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Two checkpoints of one network, which compiles in a second, and 40 images named as in ImageNet."""
    folder = tmp_path_factory.mktemp("nets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models._NETWORKS, "shallow", models.Entry(Shallow, aux_head=True, residual=False))
        write_nets_and_images(folder)
        yield folder


def write_nets_and_images(folder):
    network = Shallow(num_classes=10)
    for seed in range(2):
        variables = initial_variables(network, seed, 75)
        save_checkpoint(folder / str(seed), network, variables, Preprocessing(image_size=75))
    rng = np.random.default_rng(0)
    for number in range(1, 41):
        place = folder / "set" / "validation" / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (80 + number, 90, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(place / f"ILSVRC2012_val_{number:08d}.png")


def test_networks_and_saved_predictions_give_the_same_ensemble(nets, tmp_path, capfd):
    kept, out = tmp_path / "p.npz", tmp_path / "out"
    data = ["--data", f"folder:{nets}/set"]
    both = ["evaluate", nets / "0", nets / "1", *data, "--crops", "10"]
    code, text, err = run(capfd, *both, "--save-predictions", kept, "--out", out, "--json")
    assert code == 0, err
    found = json.loads(text)
    assert json.loads((out / "evaluation.json").read_text()) == found
    assert sorted(os.listdir(out)) == ["evaluation.json", "evaluation.md"]
    assert (found["images"], found["of"], found["excluded"], found["skipped"]) == (40, 40, 0, 0)
    assert [m["path"] for m in found["models"]] == [str(nets / "0"), str(nets / "1")]
    with np.load(kept) as file:
        labels, values = file["labels"], file["probabilities"]
        assert file["files"][5] == f"{nets}/set/validation/1/ILSVRC2012_val_00000011.png"
    assert labels.tolist() == [label for label in range(10) for _ in range(4)]
    np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
    order = np.argsort(-values.mean(0), -1)
    assert found["ensemble"]["top1_error"] == pytest.approx(np.mean(order[:, 0] != labels))
    assert found["ensemble"]["top5_error"] == pytest.approx(np.mean((order[:, :5] != labels[:, None]).all(-1)))

    code, table, _ = run(capfd, "evaluate", kept, "--out", out, "--overwrite")
    assert code == 0 and table == (out / "evaluation.md").read_text() and "| ensemble of 2 | 10 |" in table
    code, text, _ = run(capfd, "evaluate", nets / "0", kept, *data, "--json")
    mixed = json.loads(text)
    assert [m["views"] for m in mixed["models"]] == [1, 10, 10]
    assert [m["top1_error"] for m in mixed["models"][1:]] == [m["top1_error"] for m in found["models"]]

    # The same number of other images and classes: detected after the run, whose predictions are kept.
    other = tmp_path / "other.npz"
    saved = predictions.read(kept)
    predictions.write(other, dataclasses.replace(saved, files=saved.files[::-1]))
    code, _, err = run(capfd, "evaluate", nets / "0", other, *data, "--save-predictions", tmp_path / "mine.npz")
    assert code == 2 and "different images" in err
    assert [model.path for model in predictions.read(tmp_path / "mine.npz").models] == [str(nets / "0")]


@pytest.mark.parametrize(
    ("arguments", "tokens"),
    [
        ((), ["evaluate", "checkpoint"]),
        (("NET",), ["--data"]),
        (("NET", "--data", "folder:FOLDER"), ["NET", " 2 classes", " 10"]),
        (("NET", "--data", "digits", "--crops", "1", "--scales", "256"), ["scales"]),
        (("NET", "--data", "digits", "--tta-batch", "0"), ["--tta-batch", " 0"]),
        (("NET", "--data", "digits", "--image-size", "60"), ["60", " 75"]),
        (("NET", "--data", "digits", "--save-predictions", "p"), ["--save-predictions", " p", ".npz"]),
        (("NET", "--data", "digits", "--out", "FILE"), ["FILE", "directory"]),
        (("NET", "--data", "digits", "--exclude-list", "FILE"), ["FILE, line 1", "'words'"]),
        (("NET", "p.npz", "--data", "digits"), ["p.npz", "--save-predictions"]),
        (("NET", "--data", "digits", "--out", "gs://b/out"), ["gs://b/out", "mount"]),
        (("NET", "--data", "digits", "--save-predictions", "gs://b/p.npz"), ["gs://b", "mount"]),
        (("WRONG", "--save-predictions", "gs://b/p.npz"), ["gs://b", "mount"]),
        (("WRONG",), ["WRONG", ".npz"]),
        (("WRONG", "--crops", "12", "--raw"), ["--crops --raw"]),
    ],
)
def test_mistakes_are_one_line_and_exit_2(nets, tmp_path, monkeypatch, capfd, arguments, tokens):
    monkeypatch.chdir(tmp_path)
    paths = {"NET": nets / "0", "FILE": tmp_path / "file", "WRONG": tmp_path / "wrong.npz", "FOLDER": tmp_path / "two"}
    for name in ("FILE", "WRONG"):
        paths[name].write_text("words\n")
    for name in ("a", "b"):
        (tmp_path / "two" / name).mkdir(parents=True)
        for number in range(2):
            PIL.Image.new("RGB", (80, 80)).save(tmp_path / "two" / name / f"{number}.png")
    for name, path in paths.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
        tokens = [token.replace(name, str(path)) for token in tokens]
    code, out, err = run(capfd, "evaluate", *arguments)
    assert code == 2 and not out and all(token in err for token in tokens) and len(err.strip().splitlines()) == 1, err


def test_excluded_images_are_left_out_and_reported(nets, tmp_path, capfd):
    (tmp_path / "list").write_text("12\n3\n\n40\n")
    kept, where = tmp_path / "p.npz", f"folder:{nets}/set"
    arguments = ["evaluate", nets / "0", "--data", where, "--exclude-list", tmp_path / "list"]
    code, out, err = run(capfd, *arguments, "--save-predictions", kept)
    assert code == 0, err
    assert f"37 of 40 images of {where}; 3 excluded by {tmp_path}/list." in out
    with np.load(kept) as file:
        numbers = [int(name[-12:-4]) for name in file["files"]]
        assert sorted(numbers) == sorted(set(range(1, 41)) - {3, 12, 40})
        assert file["labels"].tolist() == [number % 10 for number in numbers]
    code, _, err = run(capfd, "evaluate", nets / "0", kept, "--data", where)
    assert code == 2 and " 37 " in err and " 40 " in err


class Stop(Exception):
    """Stands for a kill."""


def test_finished_networks_are_not_run_again(nets, tmp_path, monkeypatch, capfd):
    out, run_again = tmp_path / "out", []

    def evaluated(name):
        paths, data = [str(nets / "0"), str(nets / "1")], EvaluationOptions(data=f"folder:{nets}/set", crops=10)
        evaluate(paths, data, out=str(out), save_predictions=str(tmp_path / name), overwrite=True)
        return (tmp_path / name).read_bytes()

    uninterrupted = evaluated("uninterrupted.npz")
    assert sorted(os.listdir(out)) == ["evaluation.json", "evaluation.md"]
    predict, killed = run_networks.predict, [False, True]

    def predict_or_die(member, *arguments, **options):
        run_again.append(Path(member.description.path).name)
        if killed and killed.pop(0):
            raise Stop
        return predict(member, *arguments, **options)

    monkeypatch.setattr(run_networks, "predict", predict_or_die)
    with pytest.raises(Stop):
        evaluated("killed.npz")
    (kept,) = (out / "unfinished").iterdir()
    capfd.readouterr()
    assert evaluated("killed.npz") == uninterrupted and run_again == ["0", "1", "1"]
    assert f"{nets}/0 (shallow) is finished already" in capfd.readouterr().err
    assert sorted(os.listdir(out)) == ["evaluation.json", "evaluation.md"]

    # A damaged file is replaced; that of another evaluation is neither used nor deleted.
    run_again.clear()
    for name, content in ((kept.name, b"PK"), ("other.npz", b"")):
        predictions.write(kept.with_name(name), predictions.read(tmp_path / "uninterrupted.npz"))
        kept.with_name(name).write_bytes(content)
    assert evaluated("again.npz") == uninterrupted and run_again == ["0", "1"]
    assert os.listdir(out / "unfinished") == ["other.npz"]


@pytest.mark.parametrize("change", [{"crops": 12}, {"tta_batch": 8}, {"on_error": "skip"}, {"exclude_list": "list"}])
def test_a_network_finished_with_other_options_is_run_again(nets, tmp_path, monkeypatch, change):
    (tmp_path / "list").write_text("7\n")
    monkeypatch.chdir(tmp_path)
    finished, options = FinishedNetworks(str(tmp_path)), EvaluationOptions(data=f"folder:{nets}/set")

    def evaluated(options, files):
        found = run_networks.run_networks(
            [str(nets / "0")], options, [], with_names=False, finished=finished, preemption=Preemption()
        )
        assert len(list((tmp_path / "unfinished").iterdir())) == files
        return found

    first = evaluated(options, 1)
    evaluated(dataclasses.replace(options, **change), 2)
    again = evaluated(options, 2)
    np.testing.assert_array_equal(again.probabilities, first.probabilities)


def test_sigterm_keeps_finished_networks(nets, tmp_path, monkeypatch, capfd):
    write, written = FinishedNetworks.write, []

    def write_and_terminate(*arguments):
        write(*arguments)
        written.append(1)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(FinishedNetworks, "write", write_and_terminate)
    command = ["evaluate", nets / "0", nets / "1", "--data", f"folder:{nets}/set", "--out", tmp_path / "out"]
    code, _, err = run(capfd, *command)
    assert code == 75 and "SIGTERM after 1 of 2 networks" in err
    assert len(written) == len(os.listdir(tmp_path / "out" / "unfinished")) == 1


def test_a_full_disk_fails_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunFailed, match="p.npz.*No space left on device"):
        predictions.write(tmp_path / "p.npz", made([[0.6, 0.4], [0.9, 0.1]]))
    assert not list(tmp_path.iterdir())


PROCESS = """
import os, signal, sys
from helpers import Shallow
from inception_jax import models
from inception_jax.cli import main
from inception_jax.evaluation.finished_networks import FinishedNetworks

models._NETWORKS["shallow"] = models.Entry(Shallow, aux_head=True, residual=False)
write, written = FinishedNetworks.write, []

def write_and_die(*arguments):
    write(*arguments)
    written.append(1)
    if len(written) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

FinishedNetworks.write = write_and_die
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_two_killed_processes_resume_to_the_result_of_one(nets, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    arguments = [nets / "0", nets / "1", "--data", f"folder:{nets}/set", "--crops", "12", "--tta-batch", "32"]

    def pair(deaths, name):
        command = ["evaluate", *arguments, "--out", tmp_path / name, "--save-predictions", tmp_path / f"{name}.npz"]
        return start(["-c", PROCESS, deaths, *map(str, command)])

    both = pair("1", "killed")
    assert both[0].wait(timeout=PATIENCE) == -signal.SIGKILL
    both[1].kill()
    finish(both)
    assert len(list((tmp_path / "killed" / "unfinished").glob("*.npz"))) == 1
    codes, outputs = finish(pair("0", "killed"))
    assert codes == [0, 0], outputs
    assert "40 of 40 images" in outputs[0] and "ensemble of 2" in outputs[0] and "|" not in outputs[1]
    assert f"{nets}/0 (shallow) is finished already" in outputs[0] and "finished already" not in outputs[1]
    assert sorted(os.listdir(tmp_path / "killed")) == ["evaluation.json", "evaluation.md"]
    assert finish(pair("0", "uninterrupted"))[0] == [0, 0]
    assert (tmp_path / "killed.npz").read_bytes() == (tmp_path / "uninterrupted.npz").read_bytes()

    assert run(capfd, "evaluate", *arguments, "--save-predictions", tmp_path / "one.npz")[0] == 0
    two, one = predictions.read(tmp_path / "uninterrupted.npz"), predictions.read(tmp_path / "one.npz")
    assert (two.files == one.files).all() and (two.labels == one.labels).all()
    np.testing.assert_allclose(two.probabilities, one.probabilities, atol=1e-6)


def test_images_are_those_of_the_runs_or_all_of_the_source_in_the_options():
    part = DataConfig(source="digits", validation_images=100, threads=3)

    def members(*data):
        return [dataclasses.replace(member(), data=one) for one in data]

    assert run_networks.choose_data(members(part, part), EvaluationOptions()) == part
    chosen = run_networks.choose_data(members(part, part), EvaluationOptions(data="digits", threads=2))
    assert (chosen.source, chosen.validation_images, chosen.threads) == ("digits", None, 2)
    for other in (dataclasses.replace(part, validation_images=None), None):
        with pytest.raises(UserError, match="--data"):
            run_networks.choose_data(members(part, other), EvaluationOptions())


def test_a_set_that_is_named_is_meant_whole_but_for_the_one_that_was_trained_on(tmp_path, monkeypatch):
    for folder in ("pets", "held", "split/train", "split/valid"):
        for number in range(12):
            file = tmp_path / folder / ("cat", "dog")[number % 2] / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    own = DataConfig(source="folder:pets", validation_fraction=0.5, train_split="a", validation_split="b")
    one = [dataclasses.replace(member(), data=dataclasses.replace(own, train_split=None, validation_split=None))]

    def count(data):
        options = EvaluationOptions(data=data)
        return len(run_networks.open_images(run_networks.choose_data(one, options), one, options))

    named = {None: 6, "folder:pets": 6, f"folder:{tmp_path}/pets": 6, "folder:held": 12, "folder:split": 12}
    assert {data: count(data) for data in named} == named
    # Names of splits are those of the network's own data.
    two = [dataclasses.replace(member(), data=own)]
    chosen = [run_networks.choose_data(two, EvaluationOptions(data=f"folder:{name}")) for name in ("./pets", "held")]
    assert [(c.train_split, c.validation_split) for c in chosen] == [("a", "b"), (None, None)]
