"""Runs that freeze stages, thaw them, and end by their patience."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from helpers import SMALL, changed, without_times

from inception_jax import build, checkpoint, runs, train
from inception_jax.errors import UserError
from inception_jax.weights.checkpoint import load_checkpoint

# The stem and the head only, then all; evaluated and saved at every second step.
HEAD_FIRST = changed(
    SMALL,
    train={"freeze": "block_a, reduction, block_b,block_c", "unfreeze_epoch": 4 * 8 / 1442, "steps": 8},
    evaluation={"every_epochs": 2 * 8 / 1442},
)
FROZEN = {"block_a_1", "reduction_a", "block_b_1", "reduction_b", "block_c_1"}


@pytest.fixture(scope="module")
def head_first(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finetune") / "whole"
    return train.fit(changed(HEAD_FIRST, train={"keep": 9, "checkpoint_every": 1}), directory)


def state_of(saved):
    return saved.state(build.build(saved.experiment).phase(unfrozen=saved.unfrozen).state_shapes())


def test_frozen_stages_are_trained_from_their_epoch_on(head_first):
    initial = build.build(head_first.experiment).initial_variables()["params"]
    for step in (2, 4, 5, 8):
        saved = checkpoint.read(head_first.directory / "checkpoints" / str(step))
        assert saved.unfrozen == (step > 4)
        params = state_of(saved).params
        for stage, before in initial.items():
            leaves = zip(jax.tree.leaves(before), jax.tree.leaves(params[stage]), strict=True)
            assert all(np.array_equal(a, b) for a, b in leaves) == (stage in FROZEN and step <= 4), (stage, step)
        # A network for inference is whole in either phase, and trains all of its stages again.
        trained = load_checkpoint(saved.path)
        assert set(trained.variables["params"]) == set(initial) and trained.model.frozen == ()


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_run_with_frozen_stages_resumes_to_the_same_numbers(head_first, tmp_path, stop):
    for steps in (stop, 8):
        resumed = train.fit(changed(HEAD_FIRST, train={"steps": steps}), tmp_path / "run")
    expected = [m for m in without_times(head_first.metrics) if m["split"] == "train"]
    assert [m for m in without_times(resumed.metrics) if m["split"] == "train"] == expected
    ours, theirs = (state_of(checkpoint.read(path)) for path in (tmp_path / "run", head_first.directory))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"freeze": "stem,inception_a"}, ["train.freeze", "'inception_a'", "stem", "block_a", "reduction_b", "all"]),
        ({"freeze": ""}, ["train.freeze", "''"]),
        ({"unfreeze_epoch": 1.0}, ["train.unfreeze_epoch", "train.freeze"]),
        ({"replicas": 3}, ["train.replicas is 3", "4 devices", "train.batch_size, 8"]),
        ({"replicas": 16}, ["train.replicas is 16", "train.batch_size, 8"]),
    ],
)
def test_impossible_settings_are_refused(options, words, tmp_path):
    with pytest.raises(UserError) as error:
        train.fit(changed(SMALL, train=options), tmp_path / "run")
    assert all(word in str(error.value) for word in words), error.value
    assert not (tmp_path / "run").exists()


def test_statistics_over_all_devices_need_one_replica_each(tmp_path):
    with pytest.raises(UserError, match=r"bn_statistics.*train\.replicas is 8.*4"):
        train.fit(changed(SMALL, model={"bn_statistics": "global"}, train={"replicas": 8}), tmp_path / "run")


def averaged(*errors):
    return [{"split": "validation", "parameters": "averaged", "top1_error": error} for error in errors]


@pytest.mark.parametrize(
    ("errors", "patience", "ended"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.5], 1, True),
        ([0.5, 0.4, 0.3], 1, False),
        ([0.5, 0.6, 0.4, 0.45, 0.4], 2, True),
        ([0.5, 0.6, 0.4, 0.45, 0.4], 3, False),
        ([0.5, 0.6], None, False),
    ],
)
def test_patience_counts_evaluations_since_the_best(errors, patience, ended):
    raw = [{"split": "validation", "parameters": "raw", "top1_error": 0.0}]
    assert runs.is_out_of_patience(averaged(*errors) + raw, patience) == ended


def test_patience_ends_a_run_which_is_then_finished(tmp_path, capfd):
    # Nothing is learnt, so the first evaluation stays the best.
    still = changed(SMALL, optim={"learning_rate": 1e-30}, train={"freeze": "all", "steps": 30, "patience": 1})
    run = train.fit(still, tmp_path / "run")
    assert run.finished and {m["step"] for m in run.metrics if m["split"] == "validation"} == {3, 6}
    assert re.search(r"train\.patience.* step 6; the best, \d.* at step 3", capfd.readouterr().err)
    assert checkpoint.read(tmp_path / "run").step == 6
    again = train.fit(still, tmp_path / "run")
    assert again.metrics == run.metrics and "already trained to step 6" in capfd.readouterr().err
    more = train.fit(changed(still, train={"patience": 2}), tmp_path / "run")
    assert more.finished and max(m["step"] for m in more.metrics) == 9


def test_a_run_takes_the_network_of_its_weights(head_first, tmp_path, capfd):
    anything = changed(
        SMALL,
        model={"name": "pretrained", "width": 1.0, "depths": None},
        train={"init_from": str(head_first.directory), "freeze": "all", "steps": 2, "replicas": "auto"},
    )
    run = train.fit(anything, tmp_path / "run")
    network = run.experiment.model
    assert (network.name, network.width, network.depths) == ("inception_resnet_v1", 0.05, (1, 1, 1))
    assert run.experiment.train.replicas == jax.device_count()
    said = capfd.readouterr().err
    assert all(words in said for words in ("model.name inception_resnet_v1", "model.width 0.05", "train.replicas 4"))
    assert train.fit(changed(anything, train={"steps": 3}), tmp_path / "run").finished
    with pytest.raises(UserError, match=r"'pretrained'.*--init-from"):
        train.fit(changed(anything, train={"init_from": None}), tmp_path / "other")


def test_replicas_are_a_setting_of_the_run(tmp_path, capfd):
    one_image_each = changed(SMALL, train={"replicas": 8, "steps": 2})
    run = train.fit(one_image_each, tmp_path / "run")
    assert "8 replicas x 1 on 4 devices" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"train\.replicas is None here and 8 there"):
        train.fit(dataclasses.replace(one_image_each, train=SMALL.train), run.directory)
