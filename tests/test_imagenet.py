"""experiments/imagenet.py spells out the paper's recipe, which is the default configuration."""

import ast
import dataclasses

from inception_jax import config
from inception_jax.cli import packaged
from inception_jax.cli.experiment_files import load_runs
from inception_jax.config import DataConfig, Experiment, ModelConfig

AUX_HEADS = {"inception_v3": True, "inception_resnet_v1": False, "inception_v4": True, "inception_resnet_v2": True}


def test_the_runs_are_the_papers_networks_with_default_settings():
    data = DataConfig(source="tfds:imagenet2012")
    assert load_runs("imagenet") == {
        name: Experiment(model=ModelConfig(name=name, aux_head=aux_head), data=data)
        for name, aux_head in AUX_HEADS.items()
    }


def test_every_value_of_the_optimiser_is_spelled_out():
    tree = ast.parse(packaged.file("imagenet").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    spelled = {call.func.id: {keyword.arg for keyword in call.keywords} for call in calls}
    of_adam = {"adam_b2", "adam_epsilon"}
    assert spelled["OptimConfig"] == {field.name for field in dataclasses.fields(config.OptimConfig)} - of_adam
    assert {"batch_size", "epochs", "label_smoothing", "aux_weight"} <= spelled["TrainConfig"]
    assert {"dropout_rate", "residual_scales", "bn_momentum", "bn_statistics"} <= spelled["ModelConfig"]
