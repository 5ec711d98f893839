"""What is said or refused at the start of a run whose settings belong to another run."""

import math
import re

import pytest
from helpers import SMALL, changed
from test_own_pictures import of, write_pets

from inception_jax import build, train
from inception_jax.compare.records import summary_row
from inception_jax.compare.runs_to_groups import curves_of
from inception_jax.config import Experiment
from inception_jax.errors import UserError
from inception_jax.train import advice


def lines(images=1000, **parts):
    experiment = changed(Experiment(), **parts)
    return list(advice.advise(experiment, build.make_plan(experiment, images)))


def flags(line):
    return {field: float(value) for field, value in re.findall(r"--([\w.-]+) ([\d.e-]+)", line)}


def test_the_recipe_itself_needs_no_advice():
    assert lines(build.IMAGENET_IMAGES) == []


@pytest.mark.parametrize(
    ("steps", "fields", "suits"),
    [
        (5, ["model.bn_momentum", "optim.ema_decay", "optim.rms_decay", "optim.momentum"], 0.4),
        (10, ["model.bn_momentum", "optim.ema_decay"], 0.5),
        (150, ["model.bn_momentum", "optim.ema_decay"], 0.94),
        (5000, ["optim.ema_decay"], 0.998),
        (10_000, [], None),
    ],
)
def test_a_decay_over_more_steps_than_the_run_has_is_named_with_one_that_suits(steps, fields, suits):
    epochs = {"decay_epochs": 1e-3}
    found = lines(train={"steps": steps}, optim=epochs)
    assert len(found) == bool(fields)
    for line in found:
        assert flags(line) == {field.replace("_", "-"): suits for field in fields}
        assert all(f"{field} 0.9" in line for field in fields)
        names = {field.rpartition(".")[2]: suits for field in fields}
        model = {name: names.pop(name) for name in list(names) if name == "bn_momentum"}
        assert lines(train={"steps": steps}, model=model, optim={**epochs, **names}) == []


@pytest.mark.parametrize(
    ("name", "fields"),
    [("rmsprop", {"rms-decay", "momentum"}), ("sgd", {"momentum"}), ("adamw", set())],
)
def test_only_the_decays_of_the_optimiser_are_named(name, fields):
    line, *_ = lines(train={"steps": 5}, optim={"name": name, "decay_epochs": 1e-3})
    assert set(flags(line)) == {"model.bn-momentum", "optim.ema-decay", *(f"optim.{field}" for field in fields)}


def test_a_cosine_has_no_period_that_could_be_too_long():
    short = {"train": {"epochs": 1.5, "batch_size": 640}, "images": 640 * 10_000}
    assert [len(lines(**short, optim={"schedule": schedule})) for schedule in ("exponential", "cosine")] == [1, 0]


@pytest.mark.parametrize(("field", "value"), [("decay_epochs", 2.0), ("warmup_epochs", 3.0)])
def test_a_period_longer_than_the_run_is_named(field, value):
    quiet = {"decay_epochs": 0.1, "learning_rate": 0.01}
    (line,) = [
        line
        for line in lines(train={"epochs": 1.5, "batch_size": 100}, optim={**quiet, field: value})
        if "epochs" in line
    ]
    assert f"optim.{field} {value:g} " in line and "1.5 epochs" in line
    assert flags(line) == {f"optim.{field.replace('_', '-')}": pytest.approx(0.03)}


@pytest.mark.parametrize(("batch", "suits"), [(16, 0.0011), (64, 0.0045), (1280, 0.09)])
def test_the_papers_rate_with_another_batch_is_put_in_proportion(batch, suits):
    long = {"train": {"batch_size": batch, "steps": 100_000}}
    (line,) = lines(**long)
    assert "0.045" in line and "640" in line and f"{batch} would" in line
    assert flags(line) == {"optim.learning-rate": suits}
    assert lines(**long, optim={"learning_rate": suits}) == lines(**long, optim={"reference_batch": 640}) == []
    assert flags(*lines(**long, optim={"name": "sgd"})) == {"optim.learning-rate": suits}


@pytest.mark.parametrize("batch", [{}, {"reference_batch": 256}])
def test_the_papers_rate_is_not_for_adamw(batch):
    (line,) = lines(train={"batch_size": 16, "steps": 100_000}, optim={"name": "adamw", **batch})
    assert "0.045" in line and flags(line) == {"optim.learning-rate": 0.001}
    assert lines(train={"batch_size": 16, "steps": 100_000}, optim={"name": "adamw", "learning_rate": 0.001}) == []


def test_a_recipes_rate_with_a_batch_set_by_hand_is_put_in_proportion():
    def said(**parts):
        experiment = changed(recipe, **parts)
        return list(advice.advise(experiment, build.make_plan(experiment, 1000), recipe))

    recipe = changed(Experiment(), train={"batch_size": 32, "steps": 100_000}, optim={"learning_rate": 0.01})
    (line,) = said(train={"batch_size": 8})
    assert "0.01" in line and "32" in line and flags(line) == {"optim.learning-rate": 0.0025}
    assert said() == said(train={"batch_size": 8}, optim={"learning_rate": 0.0025}) == []
    # The paper's rate is for the paper's batch, whatever the experiment's is.
    (line,) = said(optim={"learning_rate": 0.045})
    assert "640" in line and flags(line) == {"optim.learning-rate": 0.0022}


@pytest.mark.parametrize(
    ("batch", "images", "devices", "allowed"),
    [(9, 8, 1, "8 or less"), (640, 120, 1, "120 or less"), (640, 122, 4, "120 or less and a multiple of the 4")],
)
def test_a_batch_of_more_images_than_there_are_is_refused(batch, images, devices, allowed):
    experiment = changed(SMALL, train={"batch_size": batch})
    with pytest.raises(UserError, match=rf"train\.batch_size is {batch}.*{images} .*digits.*{allowed}"):
        advice.check_batch(experiment, images, devices)
    advice.check_batch(experiment, batch, devices)


def test_fewer_images_than_devices_are_refused():
    with pytest.raises(UserError, match=r"train\.batch_size is 8.* 3 .* 4 devices"):
        advice.check_batch(SMALL, 3, 4)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return write_pets(tmp_path_factory.mktemp("pets"))


def test_too_large_a_batch_writes_nothing(pets, tmp_path):
    with pytest.raises(UserError, match=r"train\.batch_size is 56.* 54 .*52 or less"):
        train.fit(of(pets, train={"batch_size": 56}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_short_run_with_the_recipes_averages_validates_what_it_trained(pets, tmp_path, capfd):
    recipe = Experiment()
    averages = {
        "model": {"bn_momentum": recipe.model.bn_momentum},
        "optim": {"ema_decay": recipe.optim.ema_decay, "learning_rate": 0.16, "reference_batch": 64},
    }
    averages["model"]["bn_statistics"] = "global"  # Two images a device are few.
    short = of(pets, train={"steps": 40, "log_every": 10, "checkpoint_every": 40}, **averages)
    run = train.fit(short, tmp_path / "run", name="run")
    said = capfd.readouterr().err
    assert said.count("model.bn_momentum 0.9997 (3,333 steps), optim.ema_decay 0.9999 (10,000 steps)") == 1
    # The rate of eight images, as said, logged and listed by compare.
    assert said.count("learning rate 0.02 for the global batch of 8 images") == 1
    assert run.metrics[0]["learning_rate"] == pytest.approx(0.02)
    assert summary_row(curves_of([run])[0], "")["learning_rate"] == pytest.approx(0.02)
    losses = {m["parameters"]: m["loss"] for m in run.metrics if m["split"] == "validation"}
    # With a constant decay of BN's statistics both are about 2, above that of chance.
    assert max(losses.values()) < math.log(3)
    # Once: not when it goes on.
    train.fit(changed(short, train={"steps": 44}), tmp_path / "run", name="run")
    assert "bn_momentum" not in capfd.readouterr().err
