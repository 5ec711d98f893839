"""Weights of the loss by class: tables, balanced weights, their description, and what a resumed run keeps."""

import numpy as np
import pytest
from helpers import SMALL, changed

from inception_jax import build, checkpoint, train
from inception_jax.data.sources import Record, Source
from inception_jax.errors import UserError
from inception_jax.train import loop
from inception_jax.train.class_weights import class_weights, describe, describe_sampling

NAMES = ("cat", "dog", "a,b", "x=1", "x=1,cat", "été")


def source(counts, names=None):
    labels = np.repeat(np.arange(len(counts)), counts)
    names = names or tuple(f"class {label}" for label in range(len(counts)))
    return Source(names, len(labels), lambda i: Record(b"", int(labels[i]), f"{i}"), lambda i: (f"{i}", int(labels[i])))


def weights(text, training=None, **data):
    return class_weights(changed(SMALL, train={"class_weights": text}, data=data), training or source([1] * 6, NAMES))


def test_none_is_no_weight():
    assert class_weights(SMALL, source([3, 1])) is None


@pytest.mark.parametrize("counts", [(40, 10), (5, 0, 3), (1, 1), (7,) * 30, (1_000, 1)])
def test_balanced_weights_are_inverse_to_the_counts_with_a_mean_of_one(counts):
    found = weights("balanced", source(counts))
    n, present = sum(counts), sum(count > 0 for count in counts)
    assert found == tuple(pytest.approx(n / (present * count)) if count else 1.0 for count in counts)
    assert sum(w * count for w, count in zip(found, counts, strict=True)) / n == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("cat=2,dog=0.5", {"cat": 2, "dog": 0.5}),
        (" dog=3", {"dog": 3}),
        ("cat=1e-3, dog= 4 ", {"cat": 1e-3, "dog": 4}),
        ("a,b=2,cat=3", {"a,b": 2, "cat": 3}),
        ("cat=3,x=1=0.5,a,b=2", {"cat": 3, "x=1": 0.5, "a,b": 2}),
        ("x=1,cat=7", {"x=1,cat": 7}),
        ("e\u0301te\u0301=2", {"été": 2}),
    ],
)
def test_a_table_gives_the_others_one(text, table):
    assert weights(text) == tuple(table.get(name, 1.0) for name in NAMES)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cow=2", "'cow=2'; it must be none, balanced, or a table .*'cat', 'dog'"),
        ("cat=2,cow=2,dog=1", "which has 'cow=2'.*'cat', 'dog'"),
        ("cat", "'cat'; it must be"),
        ("", "''; it must be"),
        ("Balanced", "'Balanced'; it must be none, balanced"),
        ("cat=2,", "'cat=2,'; it must be"),
        ("cat=2=3", "it must be"),
        ("cat=two", "'two' for 'cat'; it must be a number above 0"),
        *((f"dog={n}", f"'{n}' for 'dog'") for n in ("0", "-1", "nan", "inf", "1e39", "1e-60", "")),
        ("cat=1,dog=2,cat=3", "names the class 'cat' more than once"),
    ],
)
def test_tables_that_are_refused(text, named):
    with pytest.raises(UserError, match=f"^train.class_weights .*{named}"):
        weights(text)


def test_a_table_that_can_be_read_in_two_ways_is_refused():
    names = ("a", "b", "a=1,b")
    training = source([1, 1, 1], names)
    with pytest.raises(UserError, match="several ways"):
        weights("a=1,b=2", training)
    assert weights("b=2,a=1", training) == (1, 2, 1)


def test_a_table_of_many_classes():
    names = tuple(f"n{number:04}" for number in range(1_000))
    table = ",".join(f"{name}={number + 1}" for number, name in enumerate(names))
    assert weights(table, source([1] * 1_000, names)) == tuple(range(1, 1_001))


def test_classes_are_balanced_once():
    with pytest.raises(UserError, match="train.class_weights and data.sampling are both"):
        weights("balanced", sampling="balanced")
    assert weights("cat=2", sampling="balanced")[0] == 2


def test_weights_are_described():
    assert describe((2.0, 0.5), ("cat", "dog"), resumed=False) == "class weights: 'cat' 2, 'dog' 0.5"
    many = tuple(f"n{number}" for number in range(12))
    table = describe((3.0,) + (1.0,) * 11, many, resumed=False)
    assert table == "class weights: 'n0' 3, the others 1"
    balanced = describe(tuple(np.arange(1.0, 13.0) / 4), many, resumed=True)
    assert "start of the run" in balanced and "from 0.25 for 'n0' to 3 for 'n11'" in balanced


def test_balanced_sampling_is_described():
    line = describe_sampling(source([60, 6, 0, 24], ("cat", "dog", "eel", "fox")))
    assert "30 images of each class" in line and "'dog' 5 times" in line and "'cat' 0.5 times" in line
    assert "the class 'eel' without images is never drawn" in line


def test_a_resumed_run_keeps_the_weights_of_its_start(tmp_path, monkeypatch, capfd):
    seen = []

    def save(run, state, saved):
        step = saved.step + 1 if saved else 1
        run.checkpoints.save(step, state, next_batch=step, experiment=run.setup.experiment, top1_error=None)

    def built(experiment, images, weights=None):
        seen.append(weights)
        return whole(experiment, images, weights)

    whole = build.build
    monkeypatch.setattr(build, "build", built)
    monkeypatch.setattr(loop, "train", save)
    counts = {"train": [6, 2], "validation": [1, 1]}
    monkeypatch.setattr(build, "source", lambda experiment, split, held_out: source(counts[split]))
    experiment = changed(SMALL, train={"class_weights": "balanced", "batch_size": 4}, evaluation={"batch_size": 4})
    train.fit(experiment, tmp_path / "run")
    assert seen[-1] == (2 / 3, 2.0) == checkpoint.read(tmp_path / "run").class_weights
    counts["train"] = [6, 6]
    train.fit(experiment, tmp_path / "run")
    assert seen[-1] == (2 / 3, 2.0) == checkpoint.read(tmp_path / "run").class_weights
    assert "class weights of the start of the run: 'class 0' 0.6667, 'class 1' 2" in capfd.readouterr().err
