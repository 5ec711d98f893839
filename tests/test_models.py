"""The networks against the paper's figures: widths, shapes, batch normalisation, residual scale."""

import functools
import inspect
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from inception_jax.config import ModelConfig
from inception_jax.errors import UserError
from inception_jax.models import create_model, list_models
from inception_jax.models.calls import layer_calls
from inception_jax.models.inception_resnet import V2, ResidualBlock
from inception_jax.models.inception_v4 import InceptionV4
from inception_jax.models.initialize import initial_variables, variable_shapes
from inception_jax.models.summary import count_parameters, summarize

PARAMETERS_AND_FINAL_WIDTH = [
    ("inception_v3", None, 23_834_568, 2048),
    ("inception_v4", None, 42_679_816, 1536),
    ("inception_resnet_v1", None, 22_756_328, 1792),
    ("inception_resnet_v2", None, 32_433_928, 2144),
    ("inception_resnet_v2", (10, 20, 10), 55_284_488, 2144),
    ("inception_resnet_v2_slim", None, 55_843_464, 1536),
]

# Billions at 299x299, computed by hand from the figures (Inception-v3: convolutions and classifier only).
MULTIPLY_ADDS = [
    ("inception_v3", None, 5.71),
    ("inception_v4", None, 12.25),
    ("inception_resnet_v1", None, 6.21),
    ("inception_resnet_v2", None, 9.26),
    ("inception_resnet_v2", (10, 20, 10), 14.14),
]

ENTRY = {"stem_conv_1": (149, 149, 32), "stem_conv_2": (147, 147, 32), "stem_conv_3": (147, 147, 64)}
FIGURE_3 = {**ENTRY, "stem_mixed_1": (73, 73, 160), "stem_mixed_2": (71, 71, 192), "stem_mixed_3": (35, 35, 384)}
CHAIN = {**ENTRY, "stem_pool_1": (73, 73, 64), "stem_conv_4": (73, 73, 80), "stem_conv_5": (71, 71, 192)}
FIGURE_14 = {**CHAIN, "stem_conv_6": (35, 35, 256)}


def _repeat(name, count, shape):
    return {f"{name}_{i}": shape for i in range(1, count + 1)}


STAGES = {
    "inception_v3": {
        **CHAIN,
        "stem_pool_2": (35, 35, 192),
        "inception_a_1": (35, 35, 256),
        "inception_a_2": (35, 35, 288),
        "inception_a_3": (35, 35, 288),
        "reduction_a": (17, 17, 768),
        **_repeat("inception_b", 4, (17, 17, 768)),
        "reduction_b": (8, 8, 1280),
        **_repeat("inception_c", 2, (8, 8, 2048)),
    },
    "inception_v4": {
        **FIGURE_3,
        **_repeat("inception_a", 4, (35, 35, 384)),
        "reduction_a": (17, 17, 1024),
        **_repeat("inception_b", 7, (17, 17, 1024)),
        "reduction_b": (8, 8, 1536),
        **_repeat("inception_c", 3, (8, 8, 1536)),
    },
    "inception_resnet_v1": {
        **FIGURE_14,
        **_repeat("block_a", 5, (35, 35, 256)),
        "reduction_a": (17, 17, 896),
        **_repeat("block_b", 10, (17, 17, 896)),
        "reduction_b": (8, 8, 1792),
        **_repeat("block_c", 5, (8, 8, 1792)),
    },
    "inception_resnet_v2": {
        **FIGURE_3,
        **_repeat("block_a", 5, (35, 35, 384)),
        "reduction_a": (17, 17, 1152),
        **_repeat("block_b", 10, (17, 17, 1152)),
        "reduction_b": (8, 8, 2144),
        **_repeat("block_c", 5, (8, 8, 2144)),
    },
    "inception_resnet_v2_slim": {
        **CHAIN,
        "stem_pool_2": (35, 35, 192),
        "mixed_5b": (35, 35, 320),
        **_repeat("block_a", 10, (35, 35, 320)),
        "reduction_a": (17, 17, 1088),
        **_repeat("block_b", 20, (17, 17, 1088)),
        "reduction_b": (8, 8, 2080),
        **_repeat("block_c", 9, (8, 8, 2080)),
        "block_c_final": (8, 8, 2080),
        "final_conv": (8, 8, 1536),
    },
}

# Convolutions as "height x width features", transcribed from the figures, with 1x7 and 7x1 in the released order. One
# stage stands for all of its kind.
RESIDUAL_A = {"branch_1": "1x1 32", "branch_2": "1x1 32, 3x3 32"}
V2_BLOCKS = {
    "block_a_1": {**RESIDUAL_A, "branch_3": "1x1 32, 3x3 48, 3x3 64"},
    "reduction_a": {"branch_1": "3x3 384", "branch_2": "1x1 256, 3x3 256, 3x3 384"},
    "block_b_10": {"branch_1": "1x1 192", "branch_2": "1x1 128, 1x7 160, 7x1 192"},
    "reduction_b": {
        "branch_1": "1x1 256, 3x3 384",
        "branch_2": "1x1 256, 3x3 288",
        "branch_3": "1x1 256, 3x3 288, 3x3 320",
    },
    "block_c_5": {"branch_1": "1x1 192", "branch_2": "1x1 192, 1x3 224, 3x1 256"},
}
FIGURE_3_BRANCHES = {
    "stem_mixed_1": {"conv": "3x3 96"},
    "stem_mixed_2": {"branch_1": "1x1 64, 3x3 96", "branch_2": "1x1 64, 1x7 64, 7x1 64, 3x3 96"},
    "stem_mixed_3": {"conv": "3x3 192"},
}
BRANCHES = {
    "inception_v3": {
        "inception_a_1": {
            "branch_1": "1x1 64",
            "branch_2": "1x1 48, 5x5 64",
            "branch_3": "1x1 64, 3x3 96, 3x3 96",
            "branch_pool": "1x1 32",
        },
        "reduction_a": {"branch_1": "3x3 384", "branch_2": "1x1 64, 3x3 96, 3x3 96"},
        "inception_b_2": {
            "branch_1": "1x1 192",
            "branch_2": "1x1 160, 1x7 160, 7x1 192",
            "branch_3": "1x1 160, 7x1 160, 1x7 160, 7x1 160, 1x7 192",
            "branch_pool": "1x1 192",
        },
        "reduction_b": {"branch_1": "1x1 192, 3x3 320", "branch_2": "1x1 192, 1x7 192, 7x1 192, 3x3 192"},
        "inception_c_2": {
            "branch_1": "1x1 320",
            "branch_2": "1x1 384",
            "branch_2_wide": "1x3 384",
            "branch_2_high": "3x1 384",
            "branch_3": "1x1 448, 3x3 384",
            "branch_3_wide": "1x3 384",
            "branch_3_high": "3x1 384",
            "branch_pool": "1x1 192",
        },
    },
    "inception_v4": {
        **FIGURE_3_BRANCHES,
        "inception_a_4": {
            "branch_1": "1x1 96",
            "branch_2": "1x1 64, 3x3 96",
            "branch_3": "1x1 64, 3x3 96, 3x3 96",
            "branch_pool": "1x1 96",
        },
        "reduction_a": {"branch_1": "3x3 384", "branch_2": "1x1 192, 3x3 224, 3x3 256"},
        "inception_b_7": {
            "branch_1": "1x1 384",
            "branch_2": "1x1 192, 1x7 224, 7x1 256",
            "branch_3": "1x1 192, 7x1 192, 1x7 224, 7x1 224, 1x7 256",
            "branch_pool": "1x1 128",
        },
        "reduction_b": {"branch_1": "1x1 192, 3x3 192", "branch_2": "1x1 256, 1x7 256, 7x1 320, 3x3 320"},
        "inception_c_3": {
            "branch_1": "1x1 256",
            "branch_2": "1x1 384",
            "branch_2_wide": "1x3 256",
            "branch_2_high": "3x1 256",
            "branch_3": "1x1 384, 3x1 448, 1x3 512",
            "branch_3_wide": "1x3 256",
            "branch_3_high": "3x1 256",
            "branch_pool": "1x1 256",
        },
    },
    "inception_resnet_v1": {
        "block_a_5": {**RESIDUAL_A, "branch_3": "1x1 32, 3x3 32, 3x3 32"},
        "reduction_a": {"branch_1": "3x3 384", "branch_2": "1x1 192, 3x3 192, 3x3 256"},
        "block_b_10": {"branch_1": "1x1 128", "branch_2": "1x1 128, 1x7 128, 7x1 128"},
        "reduction_b": {
            "branch_1": "1x1 256, 3x3 384",
            "branch_2": "1x1 256, 3x3 256",
            "branch_3": "1x1 256, 3x3 256, 3x3 256",
        },
        "block_c_5": {"branch_1": "1x1 192", "branch_2": "1x1 192, 1x3 192, 3x1 192"},
    },
    "inception_resnet_v2": {**FIGURE_3_BRANCHES, **V2_BLOCKS},
    "inception_resnet_v2_slim": {
        "mixed_5b": {
            "branch_1": "1x1 96",
            "branch_2": "1x1 48, 5x5 64",
            "branch_3": "1x1 64, 3x3 96, 3x3 96",
            "branch_pool": "1x1 64",
        },
        **V2_BLOCKS,
        "block_c_final": V2_BLOCKS["block_c_5"],
    },
}


def narrow(name, **options):
    """A network that compiles quickly: thin, and with one of each block if its blocks are identical."""
    depths = None if name == "inception_v3" else (1, 1, 1)
    return create_model(name, num_classes=10, width=0.1, depths=depths, **options)


def run(model, variables, images, **options):
    """Jitted `model.apply`, because op by op each is compiled."""
    return jax.jit(functools.partial(model.apply, **options))(variables, images)


def images_of(size, seed=0, n=2):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (n, *size, 3)), jnp.float32)


@pytest.mark.parametrize(("name", "depths", "parameters", "width"), PARAMETERS_AND_FINAL_WIDTH)
def test_parameters_and_final_width(name, depths, parameters, width):
    params = variable_shapes(create_model(name, depths=depths))["params"]
    assert count_parameters(params) == parameters
    assert params["classifier"]["kernel"].shape == (width, 1000)


@pytest.mark.parametrize(("name", "depths", "billions"), MULTIPLY_ADDS)
def test_multiply_adds(name, depths, billions):
    assert sum(row.multiply_adds for row in summarize(create_model(name, depths=depths))) / 1e9 == pytest.approx(
        billions, abs=0.005
    )


@pytest.mark.parametrize("name", STAGES)
def test_stage_shapes_at_299_match_the_figures(name):
    rows = summarize(create_model(name))
    assert {row.name: row.shape for row in rows} == {**STAGES[name], "classifier": (1000,)}
    assert [row.name for row in rows][:-1] == list(STAGES[name])


@pytest.mark.parametrize("name", BRANCHES)
def test_convolutions_of_each_branch_match_the_figures(name):
    params = variable_shapes(create_model(name))["params"]
    for stage, branches in BRANCHES[name].items():
        found = {branch: _chain(tree) for branch, tree in params[stage].items() if branch != "linear"}
        assert found == branches, stage


def _chain(tree):
    convs = [tree[k] for k in sorted(k for k in tree if k.startswith("conv_"))] or [tree]
    return ", ".join("{}x{} {}".format(*(c["conv"]["kernel"].shape[i] for i in (0, 1, 3))) for c in convs)


# Counted in timm's networks; Inception-ResNet-v1: in facenet's, without its sixth C block and its head.
@pytest.mark.parametrize(
    ("name", "convs", "norms", "linear"),
    [
        ("inception_v3", 94, 94, 0),
        ("inception_v4", 149, 149, 0),
        ("inception_resnet_v1", 127, 107, 20),
        ("inception_resnet_v2_slim", 244, 204, 40),
    ],
)
def test_batch_norm_follows_every_convolution_except_the_linear_ones(name, convs, norms, linear):
    params = variable_shapes(create_model(name))["params"]
    paths = [tuple(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    kernels = [p for p in paths if p[-1] == "kernel" and p[0] != "classifier"]
    assert len([p for p in kernels if p[-2] == "linear"]) == linear
    assert len([p for p in paths if p[-2:] == ("bn", "scale")]) == norms
    for path in kernels:
        around = {p[len(path) - 2 :] for p in paths if p[: len(path) - 2] == path[:-2]}
        if path[-2] == "linear":
            assert ("linear", "bias") in around and not any("bn" in p[0] for p in around)
        else:
            assert {("bn", "scale"), ("bn", "bias")} <= around and ("conv", "bias") not in around
    assert len(kernels) == convs


def test_residual_scale_multiplies_the_residual_before_the_addition():
    layers = create_model("inception_resnet_v2", width=0.1).layers(train=False)
    x = jax.random.normal(jax.random.key(0), (2, 7, 7, 20))
    variables = ResidualBlock(layers, V2.block_a, 1.0).init(jax.random.key(1), x)

    def block(scale, relu):
        return ResidualBlock(layers, V2.block_a, scale, relu=relu).apply(variables, x)

    residual = block(1.0, False) - x
    assert float(jnp.abs(residual).max()) > 0.1
    np.testing.assert_allclose(block(0.17, False), x + 0.17 * residual, atol=1e-5)
    np.testing.assert_allclose(block(0.17, True), jnp.maximum(x + 0.17 * residual, 0), atol=1e-5)


def test_residual_scales_are_per_grid_or_one_for_all():
    def scales(**options):
        stages = create_model("inception_resnet_v2_slim", depths=(1, 1, 1), **options).stages()
        return [stage.keywords["scale"] for name, stage in stages if name.startswith("block_")]

    # The released final block is always unscaled.
    assert scales() == [0.17, 0.10, 0.20, 1.0]
    assert scales(residual_scales=0.3) == [0.3, 0.3, 0.3, 1.0]


def test_dropout_drops_a_fifth_of_the_pooled_features():
    model = create_model("inception_v3", width=0.25)
    variables = initial_variables(model, 0, 75)
    _, seen = run(
        model,
        variables,
        images_of((75, 75), n=16),
        train=True,
        rngs={"dropout": jax.random.key(0)},
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name in ("dropout", "inception_c_2"),
    )
    pooled = seen["intermediates"]["inception_c_2"]["__call__"][0].mean((1, 2))
    dropped = seen["intermediates"]["dropout"]["__call__"][0]
    kept = dropped != 0
    assert 1 - kept[pooled != 0].mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_allclose(dropped[kept], (pooled / 0.8)[kept], rtol=1e-4)


@pytest.mark.parametrize("name", list_models())
def test_logits_are_float32_under_bfloat16(name):
    model = narrow(name, dtype="bfloat16")
    variables = variable_shapes(model, 75)
    logits = jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((2, 75, 75, 3), jnp.float32))
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_bfloat16_computes_in_bfloat16_close_to_float32():
    x, exact, half = images_of((75, 75)), narrow("inception_resnet_v2"), narrow("inception_resnet_v2", dtype="bfloat16")
    variables = initial_variables(exact, 0, 75)
    logits, seen = run(half, variables, x, mutable=["intermediates"], capture_intermediates=True)
    assert seen["intermediates"]["block_c_1"]["__call__"][0].dtype == jnp.bfloat16
    np.testing.assert_allclose(logits, run(exact, variables, x), atol=0.1)


def test_logits_are_float64_under_float64():
    with jax.enable_x64(True):
        model = narrow("inception_v4", dtype="float64")
        images = jax.ShapeDtypeStruct((2, 75, 75, 3), jnp.float64)
        assert jax.eval_shape(model.apply, variable_shapes(model, 75), images).dtype == jnp.float64


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("size", [(75, 75), (75, 131), (160, 90)])
def test_images_of_any_size_from_75_pixels(name, size):
    model = narrow(name)
    logits = jax.eval_shape(model.apply, variable_shapes(model), jax.ShapeDtypeStruct((2, *size, 3), jnp.float32))
    assert logits.shape == (2, 10)


@pytest.mark.parametrize("size", [(74, 300), (300, 74)])
def test_smaller_images_are_rejected(size):
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}.* 75"):
        create_model("inception_v4").init(jax.random.key(0), jnp.zeros((1, *size, 3)))


def test_zero_classes_give_the_pooled_features():
    model = narrow("inception_resnet_v1")
    variables = initial_variables(model, 0, 75)
    _, seen = run(model, variables, images_of((75, 80)), mutable=["intermediates"], capture_intermediates=True)
    last = seen["intermediates"]["block_c_1"]["__call__"][0]
    pooled = run(model.clone(num_classes=0), variables, images_of((75, 80)))
    np.testing.assert_allclose(pooled, last.mean((1, 2)), rtol=1e-5)


def test_zero_share_is_the_fraction_of_zeros_before_the_pool():
    model = narrow("inception_v4")
    variables = initial_variables(model, 0, 75)
    _, seen = run(model, variables, images_of((107, 107)), mutable=["intermediates"], capture_intermediates=True)
    seen = seen["intermediates"]
    assert 0.1 < float(seen["zero_share"]) < 0.9
    assert float(seen["zero_share"]) == pytest.approx(float((seen["inception_c_1"]["__call__"][0] == 0).mean()))


@pytest.mark.parametrize("name", ["inception_v3", "inception_v4", "inception_resnet_v2", "inception_resnet_v2_slim"])
def test_auxiliary_head_is_tf_slims_and_for_training_only(name):
    plain, model = variable_shapes(create_model(name))["params"], create_model(name, aux_head=True)
    params = variable_shapes(model)["params"]
    assert set(params) - set(plain) == {"aux_head"}
    head = params["aux_head"]
    grid = STAGES[name]["reduction_a"][2]
    assert head["conv_1"]["conv"]["kernel"].shape == (1, 1, grid, 128)
    assert head["conv_2"]["conv"]["kernel"].shape == (5, 5, 128, 768)
    assert head["classifier"]["kernel"].shape == (768, 1000)
    assert variable_shapes(model, 139)["params"] == params

    model = narrow(name, aux_head=True)
    for size in (75, 160):
        images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        for train in (True, False):
            apply = functools.partial(
                model.apply, train=train, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats", "intermediates"]
            )
            sown = jax.eval_shape(apply, variable_shapes(model), images)[1]["intermediates"]
            assert ("aux_logits" in sown) == train
            assert not train or sown["aux_logits"].shape == (2, 10)


def test_width_scales_every_convolution():
    full, half = (variable_shapes(create_model("inception_v4", width=width))["params"] for width in (1.0, 0.5))
    for wide, thin in zip(jax.tree.leaves(full), jax.tree.leaves(half), strict=True):
        if len(wide.shape) == 4 and wide.shape[2] != 3:
            assert thin.shape == (*wide.shape[:2], wide.shape[2] // 2, wide.shape[3] // 2)


def test_count_include_pad_divides_borders_by_nine():
    ones = jnp.ones((1, 5, 5, 1))
    excluded = create_model("inception_v3").layers(False).average_pool(ones)
    included = create_model("inception_v3", count_include_pad=True).layers(False).average_pool(ones)
    np.testing.assert_allclose(excluded, 1, rtol=1e-6)
    np.testing.assert_allclose(included[0, :, :, 0][[0, 0, 2], [0, 2, 2]], [4 / 9, 6 / 9, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("inception_v5", {}, "inception_v5.*inception_v3, inception_v4"),
        ("inception_resnet_v1", {"aux_head": True}, "inception_resnet_v1.*aux_head"),
        ("inception_resnet_v2", {"residual_scales": (0.1, 0.2)}, "residual_scales.* 2"),
        ("inception_v4", {"depths": (4, 0, 3)}, r"depths.*\(4, 0, 3\)"),
        ("inception_v4", {"depths": (4, 7)}, r"depths.*\(4, 7\)"),
        ("inception_v3", {"depths": (3, 4, 3)}, r"depths.*\(3, 4, 3\).*\(3, 4, 2\)"),
    ],
)
def test_impossible_options_are_rejected(name, options, message):
    with pytest.raises(UserError, match=message):
        variable_shapes(create_model(name, **options))


def test_initial_variables_are_distributed_as_flaxs():
    model = create_model("inception_resnet_v1", num_classes=200, width=0.4, depths=(1, 1, 1))
    ours, theirs = initial_variables(model, 0, 75), jax.jit(model.init)(jax.random.key(0), images_of((75, 75)))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
        tolerance = 4 / math.sqrt(a.size) + 1e-6
        assert float(np.std(a)) == pytest.approx(float(np.std(b)), rel=tolerance), path
        assert float(np.mean(a)) == pytest.approx(float(np.mean(b)), abs=tolerance * (float(np.std(b)) + 1e-6)), path
        assert np.abs(a).max() <= np.abs(b).max() * 1.2 + 1e-6, path


@pytest.mark.parametrize("train", [False, True])
def test_every_layer_is_called_once_with_the_output_of_another(train):
    model = create_model("inception_resnet_v2", width=0.05, depths=(1, 2, 1), num_classes=3, aux_head=True)
    calls = layer_calls(model, 75, train=train)
    kernels = {
        path[1:-1]: leaf.shape
        for path, leaf in flatten_dict(variable_shapes(model, 75)).items()
        if path[-1] == "kernel" and (train or path[1] != "aux_head")
    }
    layers = [call for call in calls if call.kernel]
    assert len(layers) == len(kernels) and {call.path: call.kernel for call in layers} == kernels
    # Both branches of Figure 17 read the block's input.
    (block,) = (call for call in calls if call.path == ("block_b_2",))
    readers = [call.path for call in layers if call.input_id == block.input_id]
    assert len(readers) == 2 and {path[0] for path in readers} == {"block_b_2"}
    assert block.input.shape == block.output.shape


def test_identical_stages_are_traced_once_in_training():
    model = narrow("inception_resnet_v1").clone(depths=(3, 4, 2))
    traced = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, ResidualBlock) and context.method_name == "__call__":
            traced.append(context.module.name)
        return call(*args, **kwargs)

    variables, images = variable_shapes(model, 75), jax.ShapeDtypeStruct((2, 75, 75, 3), jnp.float32)
    apply = functools.partial(model.apply, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"])
    with nn.intercept_methods(record):
        jax.eval_shape(apply, variables, images)
    assert traced == ["block_a_1", "block_b_1", "block_c_1"]


def test_initial_variables_depend_only_on_seed_and_name():
    def kernel(model, seed, size):
        params = initial_variables(model, seed, size)["params"]
        return params["inception_c_1"]["branch_1"]["conv_1"]["conv"]["kernel"]

    small = narrow("inception_v4")
    deeper = small.clone(depths=(2, 1, 1))
    np.testing.assert_array_equal(kernel(small, 0, 75), kernel(deeper, 0, 139))
    assert not np.array_equal(kernel(small, 0, 75), kernel(small, 1, 75))


@pytest.mark.parametrize("name", list_models())
def test_networks_can_be_static_arguments(name):
    assert hash(create_model(name)) == hash(create_model(name)) and create_model(name) == create_model(name)


@pytest.mark.parametrize("option", ["width", "depths", "residual_scales", "dropout_rate", "aux_head", "bn_momentum"])
def test_defaults_match_the_configuration(option):
    default = getattr(ModelConfig(), option)
    assert inspect.signature(create_model).parameters[option].default == default
    if option != "residual_scales":
        assert getattr(InceptionV4(), option) == default
