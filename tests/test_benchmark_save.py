"""Report on the cost of checkpoints: consistent numbers."""

import json

import jax
import pytest
from helpers import SMALL, write_experiment

from inception_jax import build
from inception_jax.cli.benchmark import MeasureSave


@pytest.mark.slow
def test_the_numbers_are_consistent(tmp_path, capsys):
    script = write_experiment(tmp_path, SMALL)
    measure = MeasureSave(str(script), seconds=0.2, repeats=2, json=True)
    assert measure(["--train.checkpoint-every", "50"]) == 0
    report = json.loads(capsys.readouterr().out)
    experiment = build.with_classes(SMALL, 10)
    state = build.build(experiment).state_shapes()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert report["run"] == "only" and report["checkpoint_every"] == 50 and report["state_bytes"] == size
    assert report["step_seconds"] > 0 and report["blocked_seconds"] > 0 and report["written_after_seconds"] > 0
    cost = report["save_seconds"]
    assert cost >= 0 and report["share"] == pytest.approx(cost / (cost + 50 * report["step_seconds"]))
