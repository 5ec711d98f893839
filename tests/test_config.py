"""The experiment's values: ranges, round trips, differences."""

import json
import math

import pytest
from helpers import with_value

from inception_jax import config
from inception_jax.config import Experiment, ModelConfig, OptimConfig
from inception_jax.errors import UserError


def test_the_defaults_are_the_papers():
    e = Experiment()
    assert (e.optim.learning_rate, e.optim.decay_rate, e.optim.decay_epochs) == (0.045, 0.94, 2.0)
    assert (e.optim.rms_decay, e.optim.rms_epsilon, e.optim.epsilon_in_sqrt) == (0.9, 1.0, True)
    assert (e.model.dropout_rate, e.data.image_size, e.train.batch_size) == (0.2, 299, 20 * 32)
    config.check(e)


def test_every_number_has_a_rule():
    ruled = {field for field, marks in config._MARKERS.items() if any(isinstance(m, config.Range) for m in marks)}
    free = {field for field, v in config.to_flat_dict(Experiment()).items() if isinstance(v, bool | str)}
    unruled = set(config.to_flat_dict(Experiment())) - ruled - free
    assert unruled == {"data.data_dir", "train.init_from"}


def test_the_marks_say_what_may_change_and_what_hosts_share():
    shared = config.shared_fields(Experiment())
    assert set(config.to_flat_dict(Experiment())) - set(shared) == {"data.data_dir", "data.threads", "data.prefetch"}
    for field, value in [("data.threads", 3), ("data.on_error", "skip"), ("train.remat", True)]:
        assert config.differences(with_value(field, value), Experiment()) == {}
    assert set(config.differences(with_value("data.flip", False), Experiment())) == {"data.flip"}


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("model.width", 0.0, "above 0"),
        ("model.residual_scales", (0.1, 0.2), "one number or three"),
        ("model.dropout_rate", 1.0, "at least 0 and below 1"),
        ("data.crop_area", (0.5, 0.1), "two rising shares"),
        ("optim.learning_rate", math.nan, "above 0"),
        ("optim.clip_norm", 0.0, "above 0"),
        ("train.steps", 0, "1 or more"),
        ("seed", -1, "0 or more"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(field, value, allowed):
    with pytest.raises(UserError) as error:
        config.check(with_value(field, value))
    assert str(error.value).startswith(f"{field} is {value!r}; it must be {allowed}")


def test_round_trip_through_json():
    experiment = Experiment(seed=7, model=ModelConfig(depths=(1, 2, 3), residual_scales=(0.1,)))
    assert config.from_dict(json.loads(json.dumps(config.to_dict(experiment)))) == experiment


def test_an_unknown_field_is_named():
    with pytest.raises(UserError, match="unknown field optim.rate; OptimConfig has learning_rate, decay_rate"):
        config.from_dict({"optim": {"rate": 1}})


def test_differences_name_both_values_and_leave_out_what_changes_no_number():
    a = Experiment(optim=OptimConfig(momentum=0.9))
    b = with_value("optim.momentum", 0.5)
    assert config.differences(a, b) == {"optim.momentum": (0.9, 0.5)}
    assert config.differences(a, with_value("train.steps", 5)) == {}
    assert config.differences(a, a) == {}
