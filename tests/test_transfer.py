"""Transfer learning: what a new run takes from a trained network, by the names of its classes."""

import jax
import numpy as np
import pytest

from inception_jax import config
from inception_jax.config import DataConfig, Experiment, ModelConfig
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import UserError
from inception_jax.models import create_model
from inception_jax.models.initialize import initial_variables
from inception_jax.weights.checkpoint import TrainedModel
from inception_jax.weights.transfer import settings, transfer

PETS = ("cat", "dog", "fox")


def network(name="inception_resnet_v2", classes=3, **options):
    return create_model(name, num_classes=classes, width=0.05, **{"depths": (1, 1, 1), **options})


def trained(model, *, names=PETS, **preprocessing):
    variables = jax.tree.map(np.asarray, initial_variables(model, 0, 75))
    return TrainedModel(model, variables, Preprocessing(75, class_names=tuple(names), **preprocessing))


def start(source, names, model=None, **options):
    model = model or network(classes=len(names))
    fresh = jax.tree.map(np.asarray, initial_variables(model, 1, 75))
    variables, head = transfer(source, model, fresh, names, origin="runs/pets", **options)
    for part in ("params", "batch_stats"):
        for stage, arrays in variables[part].items():
            if stage not in ("classifier", "aux_head"):
                jax.tree.map(np.testing.assert_array_equal, arrays, source.variables[part][stage])
    return variables["params"]["classifier"], fresh["params"]["classifier"], head


@pytest.mark.parametrize(
    ("there", "here", "kept", "words"),
    [
        (PETS, PETS, {0: 0, 1: 1, 2: 2}, ["kept", "3"]),
        (PETS, ("fox", "cat"), {0: 2, 1: 0}, ["kept by name", "2"]),
        (PETS, ("ant", "dog"), {1: 1}, ["new for the class 'ant'"]),
        (PETS, ("ant", "bee", "eel"), {}, ["new", "none of the 3"]),
        ((), PETS, {0: 0, 1: 1, 2: 2}, ["by number", "--train.new-head"]),
        ((), ("cat", "dog"), {}, ["new", "3 classes without names"]),
        # Two cranes, as in ImageNet: which is which only equal lists tell.
        (("crane", "crane", "fox"), ("fox", "crane"), {0: 2}, ["new for the class 'crane'"]),
        (("crane", "crane", "fox"), ("crane", "crane", "fox"), {0: 0, 1: 1, 2: 2}, ["kept"]),
    ],
)
def test_the_head_is_kept_where_class_names_agree(there, here, kept, words):
    source = trained(network(), names=there)
    head, fresh, said = start(source, here)
    for i in range(len(here)):
        origin = source.variables["params"]["classifier"] if i in kept else fresh
        column = kept.get(i, i)
        np.testing.assert_array_equal(head["kernel"][:, i], origin["kernel"][:, column])
        np.testing.assert_array_equal(head["bias"][i], origin["bias"][column])
    assert all(word in said for word in words), said


def test_a_background_class_is_left_behind():
    source = trained(network(classes=4), label_offset=1)
    head, _, _ = start(source, PETS)
    np.testing.assert_array_equal(head["kernel"], source.variables["params"]["classifier"]["kernel"][:, 1:])


def test_a_new_head_is_drawn_on_request_and_where_there_was_none():
    head, fresh, said = start(trained(network()), PETS, new_head=True)
    np.testing.assert_array_equal(head["kernel"], fresh["kernel"])
    assert "train.new_head" in said
    head, fresh, said = start(trained(network(classes=0), names=()), PETS)
    np.testing.assert_array_equal(head["kernel"], fresh["kernel"])
    assert "runs/pets has none" in said


def test_an_auxiliary_head_is_taken_where_there_is_one():
    model = network(aux_head=True)
    for source, same in ((trained(model), True), (trained(network()), False)):
        fresh = jax.tree.map(np.asarray, initial_variables(model, 1, 75))
        variables, _ = transfer(source, model, fresh, ("cat", "dog", "eel"), origin="x")
        head = variables["params"]["aux_head"]
        source_head = source.variables["params"].get("aux_head", fresh["params"]["aux_head"])
        jax.tree.map(np.testing.assert_array_equal, head["conv_1"], source_head["conv_1"])
        kernel, old = head["classifier"]["kernel"], source_head["classifier"]["kernel"]
        np.testing.assert_array_equal(kernel[:, :2], old[:, :2])
        np.testing.assert_array_equal(kernel[:, 2], fresh["params"]["aux_head"]["classifier"]["kernel"][:, 2])
        assert same == ("aux_head" in source.variables["params"])


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"name": "inception_resnet_v1"}, "--model.name inception_resnet_v2"),
        ({"depths": (1, 2, 1)}, "--model.depths 1 1 1"),
        ({"width": 0.1}, "--model.width 0.05"),
        ({"name": "inception_v4", "width": 0.1}, "--model.name inception_resnet_v2 --model.width 0.05"),
    ],
)
def test_another_network_is_refused_in_one_sentence_with_the_flags_that_fit(options, flags):
    usual = {"name": "inception_resnet_v2", "width": 0.05, "depths": (1, 1, 1)}
    model = create_model(num_classes=3, **{**usual, **options})
    with pytest.raises(UserError) as error:
        transfer(trained(network()), model, initial_variables(model, 0, 75), PETS, origin="runs/pets")
    assert "runs/pets" in str(error.value) and flags in str(error.value) and "\n" not in str(error.value)


def test_the_settings_of_the_weights_are_taken_over_unless_set_by_hand():
    model = network(count_include_pad=True, residual_scales=0.3)
    source = trained(model, central_fraction=0.9, resize="antialiased_bicubic", mean=(0.1, 0.2, 0.3))
    experiment = Experiment(model=ModelConfig(name="inception_resnet_v2"), data=DataConfig(image_size=80, flip=False))
    taken, overridden = config.split_by_hand(experiment, settings(source))
    assert overridden == {"data.image_size": 75}
    resolved = config.with_fields(experiment, taken)
    assert resolved.model.count_include_pad and resolved.model.residual_scales == (0.3, 0.3, 0.3)
    assert resolved.data == DataConfig(
        image_size=80, flip=False, central_fraction=0.9, resize="antialiased_bicubic", mean=(0.1, 0.2, 0.3)
    )


@pytest.mark.parametrize(("by_hand", "differs"), [((0.3,), False), ((0.3, 0.3, 0.3), False), ((0.4,), True)])
def test_one_residual_scale_is_that_of_all_three_grids(by_hand, differs):
    ours = Experiment(model=ModelConfig(name="inception_resnet_v2", residual_scales=by_hand))
    taken, overridden = config.split_by_hand(ours, settings(trained(network(residual_scales=0.3))))
    assert "model.residual_scales" not in taken and ("model.residual_scales" in overridden) == differs
    theirs = Experiment(model=ModelConfig(name="inception_resnet_v2", residual_scales=(0.3, 0.3, 0.3)))
    assert bool(config.differences(ours, theirs)) == bool(config.differences(theirs, ours)) == differs
