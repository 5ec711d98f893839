"""Remat against the plain step, and predicted memory against memory counted by hand."""

import dataclasses
import functools
import itertools
import json
import re
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import Shallow, with_value
from PIL import Image

from inception_jax import build, config, predict
from inception_jax.benchmark import fitting_batch, step_memory
from inception_jax.cli import main
from inception_jax.config import DataConfig, Experiment, ModelConfig
from inception_jax.data import Protocol
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import UserError
from inception_jax.evaluation import probabilities
from inception_jax.models import create_model
from inception_jax.models.blocks import Tower
from inception_jax.models.initialize import initial_variables
from inception_jax.models.network import Network
from inception_jax.system import memory
from inception_jax.system.preemption import Preemption

SMALL = Experiment(model=ModelConfig(num_classes=10), data=DataConfig(image_size=75, colour=False))
# On CPUs XLA undoes remat unless this pass, which removes the barriers, is disabled.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


class Towers(Network):
    """Stages with activations inside, which remat discards."""

    def stages(self):
        tower = functools.partial(Tower, rows=[(8, 3)] * 3)
        return [(f"tower_{i}", tower) for i in range(4)]


@pytest.fixture
def shallow(monkeypatch):
    """Replace the experiment's network by one that compiles in a second."""
    model = functools.partial(Shallow, num_classes=10, dropout_rate=0.0)
    monkeypatch.setattr(build, "make_model", lambda experiment: model(remat=experiment.train.remat))


@pytest.fixture(scope="module")
def both():
    """Without and with remat, in float64: the memory of a compiled gradient, and its outputs."""
    results = []
    with jax.enable_x64(True):
        images = np.random.default_rng(0).uniform(-1, 1, (2, 75, 75, 3))
        for remat in (False, True):
            model = Towers(num_classes=10, dropout_rate=0.5, bn_momentum=0.9, remat=remat)
            variables = jax.tree.map(np.float64, initial_variables(model, 0, 75))
            program = jax.jit(functools.partial(gradient, model)).lower(variables, images)
            program = program.compile(compiler_options=KEEP_BARRIERS)
            results.append((program.memory_analysis().temp_size_in_bytes, jax.device_get(program(variables, images))))
    return results


def gradient(model, variables, images):
    def loss(params):
        logits, new = model.apply(
            {**variables, "params": params},
            images,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats", "intermediates"],
        )
        return -jax.nn.log_softmax(logits)[:, 3].mean(), new

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


def test_remat_changes_no_number_and_no_name(both):
    (_, plain), (_, remat) = both
    (_, new), gradients = remat
    assert set(gradients) == {*(f"tower_{i}" for i in range(4)), "classifier"}
    assert set(new["intermediates"]) == {*(f"activation_rms/tower_{i}" for i in range(4)), "zero_share"}
    assert jax.tree.structure(plain) == jax.tree.structure(remat)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=str(path))


def test_remat_takes_less_memory(both):
    (plain, _), (remat, _) = both
    # By hand: 4 towers of 3 convolutions keep 24 maps per image; with remat 3 inputs and one tower's 5 others.
    one_map = 2 * 75 * 75 * 8 * 8
    assert plain > 20 * one_map and remat < plain / 1.7


def test_remat_is_for_training_and_for_every_stage():
    model = create_model("inception_resnet_v1", num_classes=10, width=0.05, depths=(1, 1, 1), remat=True)
    variables = initial_variables(model, 0, 75)
    images = np.zeros((1, 75, 75, 3), np.float32)
    options = {"rngs": {"dropout": jax.random.key(0)}, "mutable": ["batch_stats"]}
    counts = []
    for train in (True, False):
        program = jax.make_jaxpr(functools.partial(model.apply, train=train, **options))(variables, images)
        within = [equation.params["jaxpr"].eqns for equation in program.eqns if equation.primitive.name == "jit"]
        names = [equation.primitive.name for equation in itertools.chain(program.eqns, *within)]
        counts.append(names.count("checkpoint") + names.count("remat2"))
    assert counts == [len(model.stages()), 0]


def test_a_run_resumes_with_or_without_remat():
    with_remat = with_value("train.remat", True)
    assert build.make_model(with_remat).remat and not build.make_model(Experiment()).remat
    assert config.differences(Experiment(), with_remat) == {}
    # It affects the program, which must be the same on all hosts.
    assert "train.remat" in config.shared_fields(with_remat)


def test_kept_activations_by_hand():
    images, stem, reduction, last = 75 * 75 * 3, 19 * 19 * 12, 10 * 10 * 16, 10 * 10 * 20
    plain, pooled = Shallow(num_classes=10), 20
    # The input of each stage, which is that of its convolution, and of its BN; two inputs in the head, with dropout.
    numbers = images + stem + stem + reduction + reduction + last + pooled + pooled
    assert step_memory.analytical_activation_bytes(plain, 75) == 4 * numbers
    inputs = images + stem + reduction + pooled + pooled
    assert step_memory.analytical_activation_bytes(plain.clone(remat=True), 75) == 4 * (inputs + stem)
    half = step_memory.analytical_activation_bytes(plain.clone(dtype=np.dtype("bfloat16")), 75)
    assert half == 2 * (numbers - images - 2 * pooled) + 4 * (images + 2 * pooled)


def test_memory_is_linear_in_the_batch_size(shallow):
    small, middle, large = (step_memory.step_bytes(SMALL, images) for images in (32, 64, 128))
    assert large - middle == pytest.approx(2 * (middle - small), rel=0.02)
    # Each image is also there once in uint8, beside the activations for the backward pass.
    by_hand = step_memory.analytical_activation_bytes(build.make_model(SMALL), 75)
    assert by_hand < (middle - small) / 32 < 4 * by_hand


@pytest.fixture
def line(monkeypatch):
    """A step that takes 500 MB and 2 MB per image."""
    monkeypatch.setattr(step_memory, "step_bytes", lambda experiment, images: 500_000_000 + 2_000_000 * images)


def test_the_largest_batch_fits_the_memory(line):
    predicted = step_memory.predict(SMALL, (3, 7), (0.4, 0.5, 0.502, 1.5019, 80))
    assert predicted.step_bytes == (506_000_000, 514_000_000)
    assert (predicted.fixed_bytes, predicted.bytes_per_image) == (500e6, 2e6)
    assert predicted.largest_batches == {"0.4": 0, "0.5": 0, "0.502": 1, "1.5019": 500, "80": 39_750}


def test_memory_that_does_not_grow_is_an_error(monkeypatch):
    monkeypatch.setattr(step_memory, "step_bytes", lambda experiment, images: 500)
    with pytest.raises(UserError, match="3 and 7 .*same memory"):
        step_memory.predict(SMALL, (3, 7), (16,))


@pytest.mark.parametrize(
    ("batches", "gigabytes", "message"),
    [
        ((5, 5), (16,), "5 and 5"),
        ((0, 5), (16,), "0 and 5"),
        ((1, 2), (16, 0), "gigabytes are 16, 0"),
    ],
)
def test_mistakes_are_found_before_compiling(batches, gigabytes, message):
    with pytest.raises(UserError, match=message):
        step_memory.predict(SMALL, batches, gigabytes)


def test_summary_prints_it_as_json(shallow, capsys):
    command = ["summary", "inception_resnet_v1", "--image-size", "75", "--memory", "--batches", "32", "64"]
    assert main([*command, "--gigabytes", "0.0001", "2", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["parameters"] == 22_756_328
    predicted = summary["memory"]
    assert set(predicted) == {field.name for field in dataclasses.fields(step_memory.Memory)}
    low, high = predicted["step_bytes"]
    assert predicted["bytes_per_image"] == (high - low) / 32
    assert predicted["largest_batches"]["0.0001"] == 0 < predicted["largest_batches"]["2"]


def test_summary_prints_it_as_text(line, shallow, capsys):
    assert main(["summary", "inception_v4", "--memory", "--remat", "--gigabytes", "0.4", "16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "float32, with remat" in lines[-5] and "8 and 32" in lines[-5]
    words = [line.split() for line in lines[-4:]]
    assert words[0][2:4] == ["2.0", "MB"] and words[1][-2:] == ["500.0", "MB"]
    assert [row[:3] for row in words[2:]] == [["0.4", "GB", "0"], ["16", "GB", "7,750"]]


def test_options_of_memory_need_it(capsys):
    assert main(["summary", "inception_v4", "--remat"]) == 2
    assert re.search("--remat.* --memory", capsys.readouterr().err)


def training(batch, **options):
    return dataclasses.replace(SMALL, train=dataclasses.replace(SMALL.train, batch_size=batch, **options))


def gigabytes(monkeypatch, size):
    monkeypatch.setattr(fitting_batch, "device_bytes", lambda: size * 1e9)


def test_the_estimate_covers_the_compilers_numbers_in_the_document():
    text = (Path(__file__).parents[1] / "docs" / "performance.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \| [\d,]+ \| \d+ / ", text, re.M)
    assert len(rows) == 8
    for name, measured, analytical in rows:
        factor = fitting_batch._REMAT if "remat" in name else fitting_batch._PLAIN
        assert 0.75 < float(measured) / (factor * float(analytical)) <= 1, name
        assert factor * float(analytical) * 1e6 < fitting_batch._AT_MOST_PER_INPUT_BYTE * 4 * 3 * 299**2


def test_a_step_out_of_all_proportion_is_refused_and_a_large_one_warned_of(shallow, monkeypatch):
    # 600,000 analytical bytes an image; so many need 10 and 17 GB.
    per_image = step_memory.analytical_activation_bytes(build.make_model(SMALL), 75)
    images = int(10e9 / per_image)
    batch, warned = images * jax.device_count(), []
    for size, warnings in ((100, 0), (20, 0), (18, 1), (10, 1), (5.2, 1)):
        gigabytes(monkeypatch, size)
        fitting_batch.check(training(batch), warned.append)
        assert len(warned) == warnings, size
        warned.clear()
    gigabytes(monkeypatch, 4.8)
    with pytest.raises(UserError, match=rf"train\.batch_size is {batch}: .* 75 pixels .*17\.\d GB .*4\.8; ") as error:
        fitting_batch.check(training(batch), warned.append)
    fitting, with_remat = (
        int(n.replace(",", "")) for n in re.findall(r"about ([\d,]+)(?: would| with)", str(error.value))
    )
    estimate = fitting_batch.training(training(batch))
    assert estimate.step_bytes(fitting / jax.device_count()) == pytest.approx(0.9 * 4.8e9, rel=1e-3)
    assert with_remat > fitting and "--train.remat" in str(error.value)
    fitting_batch.check(training(fitting), warned.append)
    assert not warned
    assert "--train.remat" not in fitting_batch.for_training("train.batch_size", training(batch, remat=True))


def test_less_than_a_batch_that_failed_would_fit(shallow, monkeypatch):
    gigabytes(monkeypatch, 1000)
    assert "about 8 would fit" in fitting_batch.for_training("train.batch_size", training(16))
    gigabytes(monkeypatch, 0.0001)
    assert "not even one per device would fit" in fitting_batch.for_training("train.batch_size", training(16))


def test_frozen_stages_before_the_first_trained_one_keep_nothing():
    whole, tail, probe = (
        fitting_batch.training(training(8, freeze=freeze)).bytes_per_image for freeze in (None, "stem", "all")
    )
    assert whole > tail > probe > 0
    assert fitting_batch.training(training(8, freeze="all", unfreeze_epoch=1.0)).bytes_per_image == whole


def test_auto_takes_the_fewest_replicas_that_fit(shallow, monkeypatch):
    experiment = training(96, replicas="auto")
    needed = {replicas: step_memory.compiled_bytes(training(96, replicas=replicas)) for replicas in (4, 8)}
    assert sorted(needed.values(), reverse=True) == list(needed.values())
    for replicas, size in needed.items():
        gigabytes(monkeypatch, 1.01 * size / 0.9 / 1e9)
        said = []
        chosen = fitting_batch.with_replicas(experiment, said.append)
        assert chosen.train.replicas == replicas and str(replicas) in said[0]
    assert fitting_batch.with_replicas(chosen, said.append) == chosen and len(said) == 1
    gigabytes(monkeypatch, 1e-6)
    with pytest.raises(UserError, match=r"train\.batch_size is 96: "):
        fitting_batch.with_replicas(experiment, said.append)
    gigabytes(monkeypatch, 0.9 * needed[4] / 1e9)
    assert re.search(r"--train\.replicas \d+", fitting_batch.for_training("train.batch_size", training(96)))


def test_the_memory_is_the_machines_or_its_containers(tmp_path, monkeypatch):
    info, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_MEMINFO", info)
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (limit, tmp_path / "missing"))
    assert memory.machine_bytes() > 1e8
    info.write_text("MemTotal: 2000 kB\nMemFree: 5 kB\nSwapTotal: 1000 kB\n")
    for text, expected in (("max\n", 3000 * 1024), (f"{2**60}\n", 3000 * 1024), ("4096\n", 4096)):
        limit.write_text(text)
        assert memory.machine_bytes() == expected


EXHAUSTED = [MemoryError("Unable to allocate 9 GiB"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")]


def failing(error):
    def fail(*arguments, **options):
        raise error

    return fail


@pytest.mark.parametrize("error", EXHAUSTED, ids=["numpy", "xla"])
def test_evaluation_and_prediction_name_the_batch_that_fits(error, monkeypatch, tmp_path):
    model, preprocessing = Shallow(num_classes=3), Preprocessing(image_size=75)
    variables = initial_variables(model, 0, 75)
    gigabytes(monkeypatch, 0.01)
    monkeypatch.setattr(probabilities, "_compile_predict_step", lambda *settings: failing(error))
    member = types.SimpleNamespace(
        model=model,
        variables=variables,
        preprocessing=preprocessing,
        outputs=types.SimpleNamespace(count=3, label_offset=0),
    )
    loader = types.SimpleNamespace(
        rows=400,
        protocol=Protocol(10),
        indices=[0],
        source=types.SimpleNamespace(num_classes=3),
        batches=lambda preprocessing: (batch for batch in [{}]),
    )
    with pytest.raises(UserError, match=r"--tta-batch is 800: a step on 200 images of 75 .* about \d+ would fit"):
        probabilities.predict(member, loader, preemption=Preemption())
    picture = tmp_path / "a.png"
    Image.new("RGB", (80, 80)).save(picture)
    monkeypatch.setattr(predict, "load_checkpoint", lambda path, **_: (model, variables, preprocessing))
    monkeypatch.setattr(predict.colour, "to_network_range", failing(error))
    with pytest.raises(UserError, match=r"--batch-size is 12: a step on 12 images of 75 .* about 6 would fit"):
        predict.Predictor("run", batch_size=12)([picture] * 12)


def test_other_errors_stay_what_they_are():
    for error in (RuntimeError("RESOURCE_EXHAUSTED"), jax.errors.JaxRuntimeError("INTERNAL: bug"), KeyError("x")):
        with pytest.raises(type(error)), memory.explain_out_of_memory(lambda: "wrong"):
            raise error


@pytest.mark.parametrize("error", EXHAUSTED, ids=["numpy", "xla"])
def test_exhausted_memory_anywhere_is_one_sentence(error, monkeypatch, capsys):
    monkeypatch.setattr("inception_jax.models.summary.summarize", failing(error))
    assert main(["summary", "inception_v4"]) == 1
    err = capsys.readouterr().err
    assert "out of memory" in err and str(error) in err and err.count("\n") == 1
