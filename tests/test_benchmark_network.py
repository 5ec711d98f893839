"""`benchmark train` and `infer`: the steps that they time, and the rooflines. No test depends on time."""

import json
import re
import types

import jax
import numpy as np
import pytest
from helpers import Shallow

from inception_jax import build, cli
from inception_jax.benchmark import network, roofline, speed
from inception_jax.benchmark.roofline import Rates, Roofline
from inception_jax.data import colour
from inception_jax.models.initialize import initial_variables

DEVICES, BATCH = 4, 8
REAL_MODEL = build.make_model
EXPERIMENT = network.recipe("inception_v4", batch_size=BATCH, image_size=75, dtype="float32")


@pytest.fixture(scope="module", autouse=True)
def small():
    """Three convolutions in place of every network, and a small product in place of the large one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "make_model", lambda experiment: Shallow(num_classes=1000, dtype=experiment.model.dtype))
        patch.setattr(roofline, "_CPU", roofline._Sizes(side=64, numbers=256, launches=2))
        yield


@pytest.fixture(scope="module")
def training():
    return network.compile_step("train", EXPERIMENT)


@pytest.fixture(scope="module")
def inference():
    return network.compile_step("infer", EXPERIMENT)


def test_the_training_step_is_that_of_train(training):
    for _ in range(3):
        training()
    metrics = training.finish()
    setup, batch = build.build(EXPERIMENT), network._random_batch(EXPERIMENT)
    state = setup.initial_state()
    losses = []
    for _ in range(3):
        state, analytical = setup.train_step(state, batch)
        losses.append(float(analytical["loss"]))
    assert metrics == jax.device_get(analytical)
    assert len(set(losses)) == 3  # so that a step too many or too few would show


def test_inference_gives_the_probabilities_of_uint8_images(inference):
    inference()
    inference()
    probabilities = inference.finish()["probabilities"]
    model, images = build.make_model(EXPERIMENT), network._random_batch(EXPERIMENT)["images"].reshape(BATCH, 75, 75, 3)
    logits = model.apply(initial_variables(model, 0, 75), colour.to_network_range(images))
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), rtol=1e-4)
    assert inference.finish() is None  # nothing is in flight


def test_a_step_is_launched_before_the_results_of_the_previous_one_are_read(monkeypatch):
    log = []

    def step(fixed, batch):
        log.append(f"launch {len(log)}")
        return log[-1]

    step.lower = lambda *arguments: types.SimpleNamespace(compile=lambda: None)
    monkeypatch.setattr(jax, "device_get", lambda results: log.append(f"read {results}"))
    compiled = network.CompiledStep(step, (np.zeros(3, np.float32),), None)
    compiled()
    compiled()
    compiled.finish()
    assert log == ["launch 0", "read None", "launch 2", "read launch 0", "read launch 2"]
    assert compiled.held_bytes == 12


def test_steps_per_second(inference, monkeypatch):
    # Starts at 10; the third step is launched by 13.5 and read at 14.
    clock = iter([10.0, 11.0, 12.0, 13.5, 14.0])
    monkeypatch.setattr(network.time, "perf_counter", lambda: next(clock))
    assert inference.steps_per_second(3.0) == 3 / 4


def test_activations_and_bytes_equal_those_computed_by_hand():
    # 75x75x3 -> 5x5/4 -> 19x19x12 -> 3x3/2 -> 10x10x16 -> 3x3 -> 10x10x20, and 20 -> 1000.
    maps = (75 * 75 * 3 + 19 * 19 * 12) + (19 * 19 * 12 + 10 * 10 * 16) + (10 * 10 * 16 + 10 * 10 * 20) + (20 + 1000)
    assert roofline.activation_count(build.make_model(EXPERIMENT), 75) == maps == 31_759
    assert roofline.analytical_bytes(100, 7, train=False) == 107
    assert roofline.analytical_bytes(100, 7, train=True) == 214


def test_the_roofline_is_bound_by_operations_or_bytes():
    rates = Rates(flops_per_second=100.0, bytes_per_second=10.0)
    assert roofline.roofline(300, 20, rates) == Roofline(300, 20, 3.0, "operations")
    assert roofline.roofline(300, 40, rates) == Roofline(300, 40, 4.0, "bytes")


def test_rates_are_summed_over_all_devices(monkeypatch):
    monkeypatch.setattr(roofline, "_median_seconds", lambda launch: 2.0)
    # On each of four devices two products of 2 x 64^3 operations, and two passes over 256 numbers of 4 bytes.
    assert roofline.measured_rates("float32") == Rates(4 * 2 * 2 * 64**3 / 2, 4 * 2 * 2 * 256 * 4 / 2)


def test_gpus_have_known_rates_in_bfloat16_only(monkeypatch):
    assert roofline.known_rates("bfloat16") is None
    gpu = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu] * DEVICES)
    assert roofline.known_rates("bfloat16") == Rates(4 * 790e12, 4 * 3e12)
    assert roofline.known_rates("float32") is None


def test_compiled_operations_are_those_of_all_devices():
    product = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((8, 8), "float32")).compile()
    operations, moved = roofline.compiled(product)
    assert operations == DEVICES * 2 * 8**3 and moved >= DEVICES * 2 * 8 * 8 * 4


def measure(capsys, *arguments):
    assert cli.main(["benchmark", *arguments, "--image-size", "75", "--seconds", "0.01", "--repeats", "2"]) == 0
    return capsys.readouterr().out


def test_the_numbers_are_consistent(capsys, monkeypatch, training):
    monkeypatch.setattr(speed, "compile_step", lambda mode, experiment: training)
    models = ("--model", "inception_v4", "inception_v3", "--batch-size", "8", "--json")
    reports = [json.loads(line) for line in measure(capsys, "train", *models).splitlines()]
    assert [r["model"] for r in reports] == ["inception_v4", "inception_v3"]
    r = reports[0]
    assert (r["mode"], r["batch_size"], r["image_size"], r["dtype"], r["devices"]) == ("train", 8, 75, "float32", 4)
    assert 0 < r["images_per_second_least"] <= r["images_per_second"] <= r["images_per_second_greatest"]
    assert r["step_milliseconds"] == pytest.approx(8e3 / r["images_per_second"])
    analytical = 19 * 19 * 12 * 75 + 10 * 10 * 16 * 108 + 10 * 10 * 20 * 144 + 20 * 1000
    assert r["multiply_adds"] == analytical
    assert r["flops_per_second"] == pytest.approx(6 * analytical * r["images_per_second"])
    limits = r["limits"]
    assert r["matmul_fraction"] == pytest.approx(r["flops_per_second"] / limits["measured"]["flops_per_second"])
    assert limits["rates"] == limits["measured"] and limits["analytical"]["operations"] == 6 * analytical * 8
    assert limits["analytical"]["bytes"] == 2 * (4 * training.held_bytes + 8 * 4 * 31_759)
    assert limits["compiled"]["bytes"] > limits["analytical"]["bytes"]
    assert r["step_megabytes"] * 1e6 > DEVICES * training.held_bytes
    assert r["peak_of"] == "process" and (r["peak_megabytes"] is None or r["peak_megabytes"] > 50)
    assert r["profile"] is None and r["versions"]["jax"] == jax.__version__


def test_the_table_and_the_profile(capsys, monkeypatch, inference, tmp_path):
    monkeypatch.setattr(speed, "compile_step", lambda mode, experiment: inference)
    lines = measure(capsys, "infer", "--batch-size", "8", "--profile", str(tmp_path)).splitlines()
    assert lines[0].startswith("inception_resnet_v2, inference: 8 images of 75 pixels, float32; 4 x cpu")
    heads = ["speed", "a step", "arithmetic", "limits", "roofline", "roofline by XLA", "memory", "profile"]
    assert [line[:16].strip() for line in lines[1:9]] == heads
    written = tmp_path / "infer-inception_resnet_v2-75-8-float32"
    assert lines[8].endswith(f"xprof server --logdir {written}")
    # A crash of the profiler would leave no file or an empty one.
    (trace,) = written.glob("plugins/profile/*/*.xplane.pb")
    assert b"/host:CPU" in trace.read_bytes()


def test_bfloat16_reaches_the_network_and_the_product(monkeypatch):
    recipe = network.recipe("inception_v4", batch_size=8, image_size=75, dtype="bfloat16")
    assert build.make_model(recipe).dtype == "bfloat16"
    dtypes = []
    monkeypatch.setattr(roofline, "measured_rates", lambda dtype: dtypes.append(dtype) or Rates(1.0, 1.0))
    program = types.SimpleNamespace(cost_analysis=lambda: {"flops": 1.0, "bytes accessed": 1.0})
    limits = roofline.limits(
        program, build.make_model(recipe), image_size=75, batch_size=8, operations=5, held=11, train=False
    )
    assert dtypes == ["bfloat16"] and limits.analytical == Roofline(40, 4 * 11 + 8 * 2 * 31_759, 508_188.0, "bytes")


def test_a_batch_that_exceeds_the_memory_is_refused(monkeypatch):
    def fail(mode, experiment):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")

    monkeypatch.setattr(speed, "compile_step", fail)
    with pytest.raises(speed.UserError, match="inception_v4: --batch-size is 8: .* 75 .*memory"):
        speed.benchmark("train", EXPERIMENT, seconds=1.0, repeats=1, directory=None)


def test_invalid_arguments_are_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "make_model", REAL_MODEL)
    file = tmp_path / "file"
    file.touch()
    for arguments, message in {
        ("--batch-size", "0"): r"train\.batch_size.* 0",
        ("--batch-size", "8", "7"): r"train\.batch_size.* 7 .*4 devices",
        ("--model", "inception_v4", "inception_v9"): "'inception_v9'.*inception_v3",
        ("--image-size", "50"): r"data\.image_size.* 50.*75",
        ("--profile", str(file)): f"{file} cannot be written",
        ("--repeats", "0"): "--repeats.* 0 ",
        ("--seconds", "nan"): "--seconds.* nan",
    }.items():
        assert cli.main(["benchmark", "infer", *arguments]) == 2
        out, err = capsys.readouterr()
        assert re.search(message, err) and err.count("\n") == 1 and not out
