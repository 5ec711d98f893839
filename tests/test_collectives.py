"""What the devices tell each other in a step, read off the program that XLA makes of it."""

import functools
import math
import re

import jax
import optax

from inception_jax import steps
from inception_jax.data import colour
from inception_jax.models import create_model

DEVICES = 4
FLOAT = 4
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
        prepare=lambda key, images: colour.to_network_range(images),
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
    step = steps.parallel(steps.evaluate_step, model=network(), prepare=colour.to_network_range)
    lowered = step.lower(variables()["params"], variables()["batch_stats"], a_batch(mask=((), "bool")))
    assert all_reduced(optimized(lowered)) == [6 * FLOAT]
