"""Communication between devices in a step, read from XLA's program."""

import functools
import math
import re
import runpy
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from inception_jax import steps
from inception_jax.data import colour
from inception_jax.models import create_model

DEVICES = 4
FLOAT = 4
ROOT = Path(__file__).parents[1]
CHAIN = optax.sgd(1.0)


def network(**options):
    return create_model("inception_resnet_v1", num_classes=10, width=0.1, depths=(1, 1, 1), **options)


@functools.cache
def variables():
    return jax.eval_shape(network().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 75, 75, 3), "float32"))


def a_batch(**more):
    shapes = {"images": ((75, 75, 3), "uint8"), "labels": ((), "int32"), "skipped": ((), "int32"), **more}
    return {name: jax.ShapeDtypeStruct((DEVICES, 2, *shape), dtype) for name, (shape, dtype) in shapes.items()}


@functools.cache
def lowered_train_step(**options):
    step = steps.parallel(
        steps.train_step,
        donate=True,
        model=network(**options),
        optimizer=CHAIN,
        preprocess=lambda key, images: colour.to_network_range(images),
        label_smoothing=0.1,
        aux_weight=0.4,
    )
    state = jax.eval_shape(lambda v: steps.create_state(v, CHAIN, 0), variables())
    return step.lower(state, a_batch())


def optimized(lowered):
    # Level 0 halves the time of compilation; the collectives are the same.
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0}).as_text()


def all_reduced(hlo):
    """Bytes of each all-reduce of a program."""
    sizes = []
    for results in re.findall(r" = (.*) all-reduce\(", hlo):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", results)
        assert {dtype for dtype, _ in arrays} == {"f32"}
        sizes.append(FLOAT * sum(math.prod(map(int, filter(None, shape.split(",")))) for _, shape in arrays))
    return sizes


def size(tree):
    return FLOAT * sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_a_training_step_reduces_gradients_statistics_and_metrics_at_once():
    # XLA combines up to 256 all-reduces: those of all arrays of this network.
    metrics = 5 * FLOAT
    expected = size(variables()["params"]) + size(variables()["batch_stats"]) + metrics
    assert all_reduced(optimized(lowered_train_step())) == [expected]


def test_global_statistics_add_two_small_all_reduces_per_layer():
    replica, globally = (
        all_reduced(lowered.compiler_ir("hlo").as_hlo_text())
        for lowered in (lowered_train_step(), lowered_train_step(bn_axis_name=steps.AXIS))
    )
    # Mean and mean square forward, their gradients backward: twice the size of the running mean and variance.
    layers = len(jax.tree.leaves(variables()["batch_stats"])) // 2
    assert len(globally) - len(replica) == 2 * layers
    assert sum(globally) - sum(replica) == 2 * size(variables()["batch_stats"])


def test_an_evaluation_step_reduces_its_six_sums_at_once():
    step = steps.parallel(steps.evaluate_step, model=network(), preprocess=colour.to_network_range)
    lowered = step.lower(variables()["params"], variables()["batch_stats"], a_batch(mask=((), "bool")))
    assert all_reduced(optimized(lowered)) == [6 * FLOAT]


@pytest.fixture(scope="module")
def scaling():
    return runpy.run_path(str(ROOT / "benchmarks" / "scaling.py"))


def test_predicted_times_are_computed_by_hand(scaling):
    v3, v4_pod = scaling["size"]("inception_v3"), scaling["CHIPS"][0]
    # Without the auxiliary head 23,834,568; its 1x1 and 5x5 convolutions with their BN, and its classifier.
    head = (768 * 128 + 2 * 128) + (5 * 5 * 128 * 768 + 2 * 768) + (768 * 1000 + 1000)
    assert v3.parameters == 23_834_568 + head
    assert v3.all_reduced == 4 * (v3.parameters + v3.statistics + 5) == 108_789_972
    # 6 x 5.713 G x 32 = 1.097 TFLOP at 0.3 x 275 TFLOP/s; 2 x 4095/4096 x 108.8 MB at 270 GB/s.
    assert scaling["step_seconds"](v3, v4_pod) == pytest.approx(13.296e-3, rel=1e-3)
    assert scaling["all_reduce_seconds"](v3, v4_pod, 4096) == pytest.approx(0.8057e-3, rel=1e-3)
    np.testing.assert_allclose(scaling["efficiencies"](v3, v4_pod, 4096), (0.9429, 1.0), rtol=1e-3)
    # 2 images: 0.831 ms, of which 0.554 backward; 0.8057 - 0.554 = 0.2517 ms cannot hide.
    np.testing.assert_allclose(scaling["efficiencies"](v3, v4_pod, 4096, 2), (0.5077, 0.7675), rtol=1e-3)


def test_the_document_has_the_scripts_tables(scaling):
    text = (ROOT / "docs" / "scaling.md").read_text()
    v3, counts = scaling["size"]("inception_v3"), scaling["COUNTS"]
    rows = [scaling["size_row"](v3), scaling["times_row"](v3)]
    for chip in scaling["CHIPS"]:
        rows.append(scaling["efficiency_row"](v3, chip, lambda devices: 32, counts))
        rows.append(scaling["efficiency_row"](v3, chip, lambda devices: 8192 // devices, counts[2:]))
        (source,) = (line for line in text.splitlines() if line.startswith(f"| {chip.name} | {chip.peak / 1e12:.0f} |"))
        assert {f"{chip.few / 1e9:.0f}", f"{chip.many / 1e9:.0f}"} <= set(source.split())
    for row in rows:
        assert row in text
