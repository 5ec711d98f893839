"""What the devices tell each other in a step, read off the program that XLA makes of it."""

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
    # Level 0 makes worse machine code in half the time; the collectives are the same.
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0}).as_text()


def all_reduced(hlo):
    """The bytes of each all-reduce of a program. An asynchronous one is counted where it starts, not where it ends."""
    sizes = []
    for results in re.findall(r" = (.*) all-reduce(?:-start)?\(", hlo):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", results)
        assert {dtype for dtype, _ in arrays} == {"f32"}
        sizes.append(FLOAT * sum(math.prod(map(int, filter(None, shape.split(",")))) for _, shape in arrays))
    return sizes


def size(tree):
    return FLOAT * sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_all_reduces_are_read_as_a_person_reads_them():
    hlo = """
      %a = (f32[3]{0}, f32[2,3]{1,0}, /*index=2*/f32[]) all-reduce(%x, %y, %z), channel_id=1, to_apply=%add
      %b = f32[5]{0} all-reduce-start(%v), channel_id=2, to_apply=%add
      %c = f32[5]{0} all-reduce-done(%b)
      ROOT %d = f32[] add(%all-reduce.1, %e)"""
    assert all_reduced(hlo) == [4 * (3 + 6 + 1), 4 * 5]


def test_a_step_sends_gradients_statistics_and_metrics_and_all_at_once():
    lowered = lowered_train_step()
    once = size(variables()["params"]) + size(variables()["batch_stats"]) + 5 * FLOAT
    # XLA is handed an all-reduce for each array and makes one of up to 256: the 168 here. A whole network has a few.
    before = all_reduced(lowered.compiler_ir("hlo").as_hlo_text())
    assert len(before) == len(jax.tree.leaves(variables())) + 5 == 168 and sum(before) == once
    assert all_reduced(optimized(lowered)) == [once]


def test_global_statistics_add_two_small_all_reduces_for_each_layer():
    alone, together = (
        all_reduced(lowered.compiler_ir("hlo").as_hlo_text())
        for lowered in (lowered_train_step(), lowered_train_step(bn_axis_name=steps.AXIS))
    )
    # Mean and mean square forward, their gradients backward: as many numbers as the running mean and variance, twice.
    layers = len(jax.tree.leaves(variables()["batch_stats"])) // 2
    assert len(together) - len(alone) == 2 * layers == 62
    assert sum(together) - sum(alone) == 2 * size(variables()["batch_stats"])


def test_an_evaluation_step_sends_six_sums_at_once():
    step = steps.parallel(steps.evaluate_step, model=network(), preprocess=colour.to_network_range)
    lowered = step.lower(variables()["params"], variables()["batch_stats"], a_batch(mask=((), "bool")))
    assert all_reduced(optimized(lowered)) == [6 * FLOAT]


@pytest.fixture(scope="module")
def scaling():
    return runpy.run_path(str(ROOT / "benchmarks" / "scaling.py"))


def test_predicted_times_are_those_worked_out_by_hand(scaling):
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


def test_the_document_has_the_tables_of_the_program(scaling):
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
