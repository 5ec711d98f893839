"""Classes of networks, images and saved predictions are matched by name, and what was left out is counted."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import inception_jax
from inception_jax import models
from inception_jax.cli import main
from inception_jax.data import of_unknown_classes
from inception_jax.data.preprocess import Preprocessing
from inception_jax.data.sources import Record, Source, relabel
from inception_jax.errors import BrokenImage, UserError
from inception_jax.evaluation import EvaluationOptions, classes, evaluate, predictions
from inception_jax.evaluation.classes import Outputs, match, reorder
from inception_jax.models.network import Network
from inception_jax.weights.checkpoint import save_checkpoint

ANIMALS = ("cat", "dog", "fox", "bird", "ant", "elk", "1", "10", "2")
EACH = 3


class KnowsRed(Network):
    """Knows each animal by the red of its pictures, its number in ANIMALS."""

    @nn.compact
    def __call__(self, images, *, train=False):
        outputs = self.param("classifier", lambda _: jnp.zeros(len(ANIMALS), int))
        red = jnp.round((images[:, 5, 5, 0] + 1) * 127.5).astype(int)
        return 20.0 * jax.nn.one_hot(outputs[red], self.num_classes)


# Networks by their outputs; those from "nameless" on have no names, and "wide" has an output that no class is for.
NETWORKS = {
    "cdf": ("cat", "dog", "fox"),
    "fcd": ("fox", "cat", "dog"),
    "cdfb": ("cat", "dog", "fox", "bird"),
    "six": ("elk", "bird", "dog", "cat", "ant", "fox"),
    "wide": ("dog", "cat", "fox", "none"),
    "nameless": ("cat", "dog", "fox"),
    "sorted": ("1", "10", "2"),
}
NAMES = {**NETWORKS, "wide": ("dog", "cat", "fox"), "nameless": (), "sorted": ()}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A checkpoint of each network, and a way to make pictures of some animals."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models._NETWORKS, "red", models.Entry(KnowsRed, aux_head=True, residual=False))
        for name, outputs in NETWORKS.items():
            table = np.array([outputs.index(animal) if animal in outputs else 0 for animal in ANIMALS])
            save_checkpoint(
                folder / name,
                KnowsRed(num_classes=len(outputs)),
                {"params": {"classifier": table}, "batch_stats": {}},
                Preprocessing(image_size=75, class_names=NAMES[name]),
            )
        patch.chdir(folder)
        yield folder


def pictures(zoo, *animals):
    """folder:PATH of some pictures of each."""
    folder = zoo / "-".join(animals)
    for animal in animals:
        place = folder / "validation" / animal
        place.mkdir(parents=True, exist_ok=True)
        for number in range(EACH):
            PIL.Image.new("RGB", (80, 80), (ANIMALS.index(animal), 0, 0)).save(place / f"{number}.png")
    return f"folder:{folder}"


def evaluated(zoo, networks, animals, **options):
    softmax = options.pop("classes", "all")
    saved = options.pop("save_predictions", None)
    data = EvaluationOptions(data=pictures(zoo, *animals), **options)
    return evaluate(networks, data, classes=softmax, save_predictions=saved)


@pytest.mark.parametrize(
    ("networks", "animals", "options", "expected"),
    [
        (["cdf"], ("cat", "dog", "fox"), {}, {"classes": 3, "present_classes": 3}),
        (["fcd"], ("cat", "dog", "fox"), {}, {"classes": 3}),
        (["fcd"], ("dog", "fox"), {}, {"classes": 3, "present_classes": 2, "softmax": "all"}),
        (["six"], ("ant", "cat"), {"classes": "present"}, {"classes": 2, "network_classes": 6, "softmax": "present"}),
        (["fcd"], ("bird", "cat", "dog"), {"unknown_classes": "skip"}, {"unknown": EACH, "unknown_classes": ("bird",)}),
        (["cdfb", "six"], ("cat",), {}, UserError),
        (["cdf", "fcd"], ("cat", "dog", "fox"), {}, {"classes": 3}),
        (["fcd", "cdf"], ("bird", "dog"), {"unknown_classes": "skip", "crops": 10}, {"unknown": EACH, "images": EACH}),
        (["nameless"], ("cat", "dog", "fox"), {}, {}),
        (["sorted"], ("1", "10", "2"), {}, {}),
        (["nameless", "fcd"], ("cat", "dog", "fox"), {}, {}),
        (["wide"], ("cat", "fox"), {}, {"classes": 4, "present_classes": 2}),
    ],
)
def test_networks_and_images_are_matched_by_name(zoo, networks, animals, options, expected):
    if expected is UserError:
        with pytest.raises(UserError, match="cdfb and six.*only six knows the classes 'ant', 'elk'"):
            evaluated(zoo, networks, animals, **options)
        return
    found = evaluated(zoo, networks, animals, **options)
    assert found["images"] + found["unknown"] == found["of"] == EACH * len(animals)
    assert {name: found[name] for name in expected} == expected
    assert [model["top1_error"] for model in found["models"]] == [0] * len(networks)
    assert [model["matched_by"] for model in found["models"]] == [
        "name" if NAMES[network] else "number" for network in networks
    ]
    assert len(networks) == 1 or found["ensemble"]["top1_error"] == 0
    assert (found["models"][0]["top5_error"] is None) == (found["classes"] < 6)


@pytest.mark.parametrize(
    ("networks", "animals", "options", "named"),
    [
        (["cdf"], ("bird", "cat", "dog"), {}, ["'bird'", "cdf", "'cat', 'dog', 'fox'", "--unknown-classes skip"]),
        (["cdf"], ("ant", "bird"), {"unknown_classes": "skip"}, ["'ant', 'bird'", "no class in common"]),
        (["cdf"], ("ant", "bird", "elk"), {"unknown_classes": "skip"}, ["--class-names"]),
        (["nameless"], ("cat", "dog"), {}, ["2 classes", "nameless has 3", "--class-names"]),
        (["cdf"], ("cat", "bird"), {"classes": "present", "unknown_classes": "skip"}, ["one class", "--classes all"]),
        (["cdf", "six"], ("cat", "dog"), {}, ["cdf and six", "only six knows", "'ant', 'bird', 'elk'"]),
        (["wide", "cdf"], ("cat", "dog"), {}, ["only wide knows the class 'class 3'"]),
    ],
)
def test_classes_that_do_not_match_are_refused_by_name(zoo, networks, animals, options, named):
    with pytest.raises(UserError) as error:
        evaluated(zoo, networks, animals, **options)
    assert all(words in str(error.value) for words in named), error.value


def test_what_is_matched_by_number_is_said_with_the_order(zoo, capfd):
    evaluated(zoo, ["sorted"], ("1", "10", "2"))
    err = capfd.readouterr().err
    assert "sorted" in err and "by number" in err and "0 is '1', 1 is '10', 2 is '2'" in err and "'1', '2', '10'" in err
    evaluated(zoo, ["nameless", "cdf"], ("cat", "dog", "fox"))
    err = capfd.readouterr().err
    assert "nameless" in err and "2 is 'fox'" in err and "other programs" not in err and "cdf" not in err
    evaluated(zoo, ["cdf"], ("cat", "dog", "fox"))
    assert "by number" not in capfd.readouterr().err


def test_saved_predictions_are_matched_by_name(zoo, tmp_path, capfd):
    paths = [str(tmp_path / f"{name}.npz") for name in ("cdf", "fcd", "old")]
    every = ("cat", "dog", "fox")
    for name, path in zip(("cdf", "fcd"), paths, strict=False):
        evaluated(zoo, [name], every, save_predictions=path)
        assert predictions.read(path).class_names == NETWORKS[name]
    mixed = evaluated(zoo, ["fcd", paths[0]], every)
    alone = evaluate(paths[:2])
    # As earlier versions saved them.
    old = dataclasses.replace(predictions.read(paths[1]), class_names=())
    predictions.write(paths[2], dataclasses.replace(old, models=(dataclasses.replace(old.models[0], path="earlier"),)))
    capfd.readouterr()
    old = evaluate([paths[1], paths[2]])
    err = capfd.readouterr().err
    assert "earlier" in err and "without the names" in err and "fcd" not in err
    for found in (mixed, alone, old):
        assert [model["top1_error"] for model in found["models"]] == [0, 0] and found["ensemble"]["top1_error"] == 0
    (tmp_path / "old.npz").unlink()
    evaluated(zoo, ["cdfb"], ("bird", *every), save_predictions=paths[2])
    with pytest.raises(UserError, match="3 and 4 classes"):
        evaluate([paths[0], paths[2]])
    with pytest.raises(UserError, match="of 4 classes, the network of cdf has 3"):
        evaluated(zoo, ["cdf", paths[2]], every)


def test_saved_predictions_keep_all_classes_and_what_was_left_out(zoo, tmp_path):
    path = str(tmp_path / "p.npz")
    given = {"unknown_classes": "skip", "classes": "present", "save_predictions": path}
    found = evaluated(zoo, [zoo / "six"], ("ant", "cat", "1"), **given)
    again = evaluate([path], classes="present")
    assert json.dumps(again) == json.dumps(found) and found["unknown_classes"] == ("1",)
    assert evaluate([path])["classes"] == 6 and predictions.read(path).probabilities.shape == (1, 2 * EACH, 6)


def test_the_report_says_what_was_counted(zoo, tmp_path, capfd):
    data = pictures(zoo, "bird", "cat", "dog")
    command = ["evaluate", "fcd", "--data", data, "--unknown-classes", "skip", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    line = (tmp_path / "out" / "evaluation.md").read_text().splitlines()[0]
    assert capfd.readouterr().out.startswith(line)
    assert line.startswith(f"6 of 9 images of {data}; 3 of the class 'bird' left out, ")
    assert "Softmax over all 3 classes, of which 2 are present." in line
    summary = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (summary["unknown"], summary["unknown_classes"]) == (3, ["bird"])
    assert main([*command[:-2], "--classes", "present"]) == 0
    assert "Softmax over the 2 present of 3 classes." in capfd.readouterr().out
    assert main(["evaluate", "nameless", "--data", pictures(zoo, "cat", "dog", "fox")]) == 0
    assert "matched by number, not by name: nameless (red)." in capfd.readouterr().out


@pytest.mark.parametrize(
    ("outputs", "images", "labels", "by_number"),
    [
        (Outputs("a", 3, ("x", "y", "z")), ("z", "x"), (2, 0), False),
        (Outputs("a", 12, tuple(map(str, range(12)))), ("0", "1", "10"), (0, 1, 10), False),
        (Outputs("a", 12, tuple(map(str, range(12)))), tuple(sorted(map(str, range(12)))), None, False),
        # A data set without names has the numbers of its classes.
        (Outputs("a", 2, ("x", "y")), ("0", "1"), (0, 1), True),
        (Outputs("a", 2), ("x", "y"), (0, 1), True),
        # Two classes of a name, one after the other or not used.
        (Outputs("a", 3, ("crane", "crane", "x")), ("crane", "crane", "x"), (0, 1, 2), False),
        (Outputs("a", 3, ("crane", "crane", "x")), ("x",), (2,), False),
    ],
)
def test_labels_by_name_or_number(outputs, images, labels, by_number):
    found = match([outputs], images, source="here", unknown="refuse")
    assert found.labels == (tuple(map(int, images)) if labels is None else labels)
    assert found.by_number == (by_number,) and found.unknown == () and found.orders == (None,)


def test_arguments_from_python_are_checked():
    with pytest.raises(UserError, match=r"give \['runs/v4'\]"):
        inception_jax.evaluate("runs/v4")
    with pytest.raises(UserError, match="classes is 'presnt'.*'all' or 'present'"):
        inception_jax.evaluate(["runs/v4"], classes="presnt")
    with pytest.raises(UserError, match="unknown_classes is 'ignore'.*'refuse' or 'skip'"):
        inception_jax.evaluate(["runs/v4"], EvaluationOptions(unknown_classes="ignore"))


def test_names_that_are_not_unique_match_nothing():
    twice = Outputs("a", 3, ("crane", "crane", "x"))
    with pytest.raises(UserError, match="a has two classes named 'crane'"):
        match([twice], ("crane",), source="here", unknown="refuse")
    with pytest.raises(UserError, match="two classes named 'crane'"):
        reorder(twice, Outputs("b", 3, ("x", "crane", "crane")))
    assert classes.reorder(twice, twice) is None


def test_images_of_unknown_classes_are_found_with_and_without_an_index():
    labels = [0, 1, 2, 1, 0]

    def read(index):
        if index == 4:
            raise BrokenImage("broken")
        return Record(b"", labels[index], f"{index}")

    source = Source(("a", "b", "c"), 5, read)
    indexed = dataclasses.replace(source, locate=lambda index: (f"{index}", labels[index]))
    said = []
    for one in (source, indexed):
        found = of_unknown_classes(relabel(one, (-1, 0, -1), ("b",)), said.append)
        assert found.tolist() == ([0, 2] if one is source else [0, 2, 4])
    assert said == ["reading the labels of 5 images"]
