"""Configuration: ranges, round trips, differences."""

import json
import math
import re

import pytest
from helpers import changed, with_value

from inception_jax import config
from inception_jax.config import Experiment, ModelConfig
from inception_jax.errors import UserError


def test_defaults_are_the_papers():
    e = Experiment()
    assert (e.optim.learning_rate, e.optim.decay_rate, e.optim.decay_epochs) == (0.045, 0.94, 2.0)
    assert (e.optim.rms_decay, e.optim.rms_epsilon, e.optim.epsilon_in_sqrt) == (0.9, 1.0, True)
    assert (e.model.dropout_rate, e.data.image_size, e.train.batch_size) == (0.2, 299, 20 * 32)
    config.check(e)


def test_every_number_has_a_range():
    ranged = {field for field, marks in config._MARKERS.items() if any(isinstance(m, config.Range) for m in marks)}
    free = {field for field, v in config.to_flat_dict(Experiment()).items() if isinstance(v, bool | str)}
    assert set(config.to_flat_dict(Experiment())) - ranged - free == {
        *("data.data_dir", "data.train_split", "data.validation_split", "data.mean"),
        *("train.init_from", "train.freeze"),
    }


def test_marks_of_fields_that_may_change_or_differ_between_hosts():
    shared = config.shared_fields(Experiment())
    assert set(config.to_flat_dict(Experiment())) - set(shared) == {"data.data_dir", "data.threads", "data.prefetch"}
    for field, value in [("data.threads", 3), ("data.on_error", "skip"), ("train.remat", True), ("train.steps", 5)]:
        assert config.differences(with_value(field, value), Experiment()) == {}
    assert set(config.differences(with_value("data.flip", False), Experiment())) == {"data.flip"}


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("model.width", 0.0, "above 0"),
        ("model.residual_scales", (0.1, 0.2), "one number or three"),
        ("model.dropout_rate", 1.0, "below 1"),
        ("data.crop_area", (0.5, 0.1), "up to 1"),
        ("optim.learning_rate", math.nan, "above 0"),
        ("optim.learning_rate", math.inf, "above 0, finite"),
        ("optim.learning_rate", 1e39, "finite"),
        ("optim.decay_epochs", math.inf, "finite"),
        ("data.mean", (0.5, math.nan, 0.5), "finite"),
        ("evaluation.every_epochs", -math.inf, "above 0"),
        ("train.steps", 0, "1 or more"),
        ("optim.name", "adam", "'rmsprop', 'sgd', 'adamw'"),
        ("optim.schedule", "step", "'exponential', 'cosine'"),
        ("optim.head_rate", 0.0, "above 0"),
        ("optim.reference_batch", 0, "1 or more"),
        ("optim.adam_b2", 1.0, "below 1"),
        ("optim.adam_epsilon", 0.0, "above 0"),
        ("seed", -1, "0 or more"),
        ("data.sampling", "even", "'uniform', 'balanced'"),
        ("train.class_weights", None, "str|text"),
    ],
)
def test_errors_name_field_value_and_range(field, value, allowed):
    with pytest.raises(UserError, match=f"{field}.*{re.escape(repr(value))}.*{allowed}"):
        config.check(with_value(field, value))


@pytest.mark.parametrize("options", [{"reference_batch": 1}, {"head_rate": 640.0}])
def test_the_rate_that_is_applied_must_be_finite_too(options):
    large = changed(Experiment(), optim={"learning_rate": 1e38})
    config.check(large)
    with pytest.raises(UserError, match=r"optim\.learning_rate 1e\+38.*640.*6\.4e\+40.*finite"):
        config.check(changed(large, optim=options))


def test_the_rate_is_in_proportion_to_a_reference_batch():
    optim = Experiment().optim
    assert config.learning_rate(optim, 16) == optim.learning_rate
    in_proportion = changed(Experiment(), optim={"reference_batch": 640}).optim
    assert [config.learning_rate(in_proportion, n) for n in (640, 16)] == pytest.approx([0.045, 0.001125])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_every_float_must_be_finite(value):
    fields = config.to_flat_dict(Experiment()).items()
    floats = {field: v for field, v in fields if any(isinstance(number, float) for number in config._numbers(v))}
    assert len(floats) > 20
    for field, default in floats.items():
        wrong = (*default[:-1], value) if isinstance(default, tuple) else value
        with pytest.raises(UserError, match=f"{field} is .*{value!r}.*finite"):
            config.check(with_value(field, wrong))


def test_round_trip_through_json():
    experiment = Experiment(seed=7, model=ModelConfig(depths=(1, 2, 3), residual_scales=(0.1,)))
    assert config.from_dict(json.loads(json.dumps(config.to_dict(experiment)))) == experiment


def test_errors_name_an_unknown_field():
    with pytest.raises(UserError, match="optim.rate.*learning_rate, reference_batch"):
        config.from_dict({"optim": {"rate": 1}})


def test_differences_hold_both_values():
    assert config.differences(Experiment(), with_value("optim.momentum", 0.5)) == {"optim.momentum": (0.9, 0.5)}
