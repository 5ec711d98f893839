"""Peers' weights reproduce the peers' numbers, survive import and export, and are rejected if anything does not fit.

The released networks share their blocks with the paper's, so that these tests cover both, except Inception-ResNet-v2 as
in the figures: its stem before residual blocks and the widths 384, 1152 and 2144 have no peer; test_models.py checks
their shapes.
"""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle_rng
import pytest

from inception_jax.errors import UserError
from inception_jax.models import create_model
from inception_jax.models.initialize import initial_variables
from inception_jax.models.network import Network
from inception_jax.models.summary import count_parameters
from inception_jax.weights import export_weights, import_weights
from inception_jax.weights.peers import files
from inception_jax.weights.peers.layout import without_scales

GOLDEN = Path(__file__).parent / "golden"
NETWORKS = {
    "timm_inception_v3": "inception_v3",
    "timm_inception_v4": "inception_v4",
    "timm_inception_resnet_v2": "inception_resnet_v2_slim",
    "facenet_inception_resnet_v1": "inception_resnet_v1_facenet",
    "keras_inception_v3": "inception_v3",
    "keras_inception_resnet_v2": "inception_resnet_v2_slim",
}
PYTORCH = [name for name in NETWORKS if not name.startswith("keras")]


@dataclasses.dataclass(repr=False)
class Peer:
    """A peer's weights, and the network and variables imported from them."""

    name: str
    format: str
    network: str
    description: dict[str, Any]
    weights: dict[str, np.ndarray]
    model: Network
    variables: dict[str, Any]

    def numbers(self, suffix: str = "") -> dict[str, np.ndarray]:
        return dict(np.load(GOLDEN / f"{self.name}{suffix}.npz"))


@pytest.fixture(scope="module", params=NETWORKS)
def peer(request) -> Peer:
    return load(request.param)


def load(name: str) -> Peer:
    format, network = name.partition("_")[0], NETWORKS[name]
    description = json.loads((GOLDEN / f"{name}.json").read_text())
    layout = description["kernel_layout"]
    weights = {e["name"]: oracle_rng.weight(e["name"], e["shape"], e["kind"], layout) for e in description["state"]}
    model, variables = import_weights(network, weights, format=format)
    return Peer(name, format, network, description, weights, model, variables)


def equal(ours: Any, theirs: Any) -> bool:
    """Equality bit for bit, of names and dtypes too."""
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), ours, theirs)
    return all(jax.tree.leaves(same))


# Numbers of the peers


def check_against(peer: Peer, bits: int, tolerance: float) -> None:
    """Compares every stage, the pooled features and the output on the oracle's images."""
    expected = {name.removesuffix(str(bits)): value for name, value in peer.numbers().items()}
    images = oracle_rng.images(peer.description["batch"], *peer.description["input_size"]).astype(f"float{bits}")
    with jax.enable_x64(bits == 64):
        # Not jitted: for one batch that is faster than compiling the network.
        output, state = peer.model.apply(
            peer.variables, images, capture_intermediates=lambda module, _: len(module.path) == 1
        )
        intermediates = state["intermediates"]
        pooled = np.asarray(intermediates["dropout"]["__call__"][0])
        stages = [np.asarray(intermediates[name]["__call__"][0]) for name, _ in peer.model.stages()]
        output = np.asarray(output)
    assert output.dtype == f"float{bits}"
    assert [stage.shape for stage in stages] == [tuple(shape) for shape in expected["stage_shapes"]]
    assert_close([oracle_rng.stats(stage) for stage in stages], expected["stage_stats"], tolerance)
    assert_close(pooled, expected["pooled"], tolerance)
    assert_close(output, expected["logits"] if "logits" in expected else expected["embedding"], tolerance)
    if "embedding_l2_" in expected:
        assert_close(output / np.linalg.norm(output, axis=1, keepdims=True), expected["embedding_l2_"], tolerance)


def assert_close(ours: Any, theirs: Any, tolerance: float) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_every_stage_reproduces_the_peers_numbers(peer):
    if peer.name in PYTORCH:
        check_against(peer, bits=64, tolerance=1e-9)
    else:
        check_against(peer, bits=32, tolerance=1e-4)


@pytest.mark.parametrize("peer", ["timm_inception_v4"], indirect=True)
def test_float32_reproduces_the_peers_numbers(peer):
    check_against(peer, bits=32, tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("peer", [name for name in PYTORCH if name.startswith("timm")], indirect=True)
def test_training_reproduces_the_peers_logits_statistics_and_gradients(peer):
    expected = peer.numbers("_train")
    model = peer.model.clone(dropout_rate=0.0, bn_momentum=0.9)
    images = oracle_rng.images(4, 299, 299).astype(np.float64)
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), peer.variables)

    def loss(params):
        variables_ = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, state = model.apply(variables_, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(expected["labels"]))
        return losses.mean(), (logits, state["batch_stats"])

    with jax.enable_x64(True):
        # Optimised, unlike in the rest of the suite, because this computes for longer than it compiles.
        optimised = {"xla_backend_optimization_level": 3}
        step = jax.jit(jax.grad(loss, has_aux=True), compiler_options=optimised)
        grads, (logits, statistics) = step(variables["params"])
    assert_close(logits, expected["logits"], 1e-6)
    # In the peer's names, with gradients in place of parameters.
    theirs = export_weights(model, {"params": grads, "batch_stats": statistics}, format=peer.format)
    norms = [np.linalg.norm(theirs[name]) for name in expected["grad_names"]]
    np.testing.assert_allclose(norms, expected["grad_norms"], rtol=1e-6)
    for which, layer in zip(("first", "last"), expected["bn_names"], strict=True):
        assert_close(theirs[f"{layer}.running_mean"], expected[f"{which}_running_mean"], 1e-6)
        ours = as_in_pytorch(peer, layer, theirs[f"{layer}.running_var"], side=149 if which == "first" else 8)
        assert_close(ours, expected[f"{which}_running_var"], 1e-6)


def as_in_pytorch(peer: Peer, layer: str, running_var: np.ndarray, side: int) -> np.ndarray:
    """The running variance as PyTorch updates it, with n / (n - 1) times the batch's variance."""
    count = 4 * side * side
    kept = 0.9 * peer.weights[f"{layer}.running_var"].astype(np.float64)
    return kept + (running_var - kept) * count / (count - 1)


# In and out


def test_import_has_the_peers_parameters(peer):
    expected = peer.description["trainable_parameters"]
    if peer.format == "keras":  # without scales
        expected += sum(entry["shape"][0] for entry in peer.description["state"] if entry["kind"] == "mean")
    assert count_parameters(peer.variables["params"]) == expected
    assert peer.model.num_classes == (512 if peer.format == "facenet" else 1000)
    assert peer.model.dtype is None


def test_export_of_import_is_the_peers_own_mapping(peer):
    exported = export_weights(peer.model, peer.variables, format=peer.format)
    assert exported.keys() == peer.weights.keys()
    assert equal(exported, peer.weights)


@pytest.mark.parametrize("peer", ["timm_inception_v3", "keras_inception_v3"], indirect=True)
def test_import_of_export_is_the_variables(peer):
    model = peer.model.clone(num_classes=10)
    variables = initial_variables(model, seed=3)
    exported = export_weights(model, jax.tree.map(jnp.asarray, variables), format=peer.format)
    again, imported = import_weights(peer.network, exported, format=peer.format)
    assert again == model
    assert equal(imported, variables)


def test_average_pools_are_the_peers(peer):
    assert peer.model.count_include_pad == any(
        "count_include_pad=True" in pool for pool in peer.description.get("avg_pool", [])
    )


@pytest.mark.parametrize("peer", ["facenet_inception_resnet_v1"], indirect=True)
def test_the_papers_name_stands_for_the_peers_network(peer):
    assert import_weights("inception_resnet_v1", peer.weights, format="facenet")[0] == peer.model


@pytest.mark.parametrize("peer", ["timm_inception_v3"], indirect=True)
def test_the_auxiliary_head_is_converted_if_the_peer_has_it(peer):
    model = peer.model.clone(aux_head=True)
    variables = initial_variables(model, seed=0)
    exported = export_weights(model, variables, format="timm")
    shapes = {name: array.shape for name, array in exported.items() if name not in peer.weights}
    assert shapes["AuxLogits.conv0.conv.weight"] == (128, 768, 1, 1)
    assert shapes["AuxLogits.conv1.bn.running_var"] == (768,)
    assert shapes["AuxLogits.fc.weight"] == (1000, 768)
    assert len(shapes) == 2 * 6 + 2
    imported_model, imported = import_weights("inception_v3", exported, format="timm")
    assert imported_model == model
    assert equal(imported, variables)
    in_keras = export_weights(model.clone(count_include_pad=False), variables, format="keras")
    assert not import_weights("inception_v3", in_keras, format="keras")[0].aux_head


# The head


@pytest.fixture(scope="module")
def keras_v3() -> Peer:
    return load("keras_inception_v3")


@pytest.fixture(scope="module")
def facenet() -> Peer:
    return load("facenet_inception_resnet_v1")


@pytest.mark.parametrize("classes", [10, 1001])
def test_the_number_of_classes_is_that_of_the_head(keras_v3, classes):
    head = {
        "predictions/kernel": np.ones((2048, classes), np.float32),
        "predictions/bias": np.ones(classes, np.float32),
    }
    model, variables = import_weights("inception_v3", keras_v3.weights | head, format="keras")
    assert model.num_classes == classes
    assert np.array_equal(variables["params"]["classifier"]["kernel"], head["predictions/kernel"])


def test_another_number_of_classes_gives_a_new_head_with_a_warning(facenet, caplog):
    model, variables = import_weights(facenet.network, facenet.weights, format="facenet", num_classes=7)
    assert model.num_classes == 7
    assert "7 classes" in caplog.text and "new" in caplog.text
    fresh = initial_variables(model, seed=0)
    for collection, trunk in facenet.variables.items():
        assert equal(variables[collection].pop("classifier"), fresh[collection]["classifier"])
        assert equal(variables[collection], {name: leaves for name, leaves in trunk.items() if name != "classifier"})


@pytest.mark.parametrize("with_head", [True, False])
def test_zero_classes_drop_the_head_if_any(facenet, with_head):
    weights = {k: v for k, v in facenet.weights.items() if with_head or not k.startswith("last_")}
    model, variables = import_weights(facenet.network, weights, format="facenet", num_classes=0)
    assert model.num_classes == 0
    assert "classifier" not in variables["params"]
    assert equal(variables["params"]["block_c_final"], facenet.variables["params"]["block_c_final"])
    assert jax.eval_shape(model.apply, variables, np.zeros((1, 75, 75, 3), np.float32)).shape == (1, 1792)


def test_a_missing_head_is_an_error_unless_it_is_replaced(facenet):
    weights = {k: v for k, v in facenet.weights.items() if not k.startswith("last_")}
    with pytest.raises(UserError, match="no classifier.*--num-classes"):
        import_weights(facenet.network, weights, format="facenet")
    model, _ = import_weights(facenet.network, weights, format="facenet", num_classes=5)
    assert model.num_classes == 5


# Rejected weights


def test_all_misfits_are_named_with_both_names_and_shapes(facenet):
    weights = dict(facenet.weights)
    weights["conv2d_1a.conv.wieght"] = weights.pop("conv2d_1a.conv.weight")
    a, b = "repeat_1.0.branch0.conv.weight", "repeat_1.0.branch1.1.conv.weight"
    weights[a], weights[b] = weights[b], weights[a]
    weights["block8.conv2d.bias"] = np.zeros(3, np.float32)
    weights["last_bn.weight"] = np.zeros(512, np.int32)
    del weights["mixed_6a.branch0.bn.num_batches_tracked"]
    with pytest.raises(UserError) as error:
        import_weights(facenet.network, weights, format="facenet")
    summary, *misfits = str(error.value).splitlines()
    assert "facenet's inception_resnet_v1_facenet" in summary and "6 entries" in summary
    assert misfits == [
        "  missing: conv2d_1a.conv.weight (32, 3, 3, 3), our params/stem_conv_1/conv/kernel (3, 3, 3, 32)",
        "  wrong shape: repeat_1.0.branch0.conv.weight (32, 32, 3, 3), not (32, 256, 1, 1), "
        "our params/block_a_1/branch_1/conv_1/conv/kernel (1, 1, 256, 32)",
        "  wrong shape: repeat_1.0.branch1.1.conv.weight (32, 256, 1, 1), not (32, 32, 3, 3), "
        "our params/block_a_1/branch_2/conv_2/conv/kernel (3, 3, 32, 32)",
        "  wrong shape: block8.conv2d.bias (3,), not (1792,), our params/block_c_final/linear/bias (1792,)",
        "  wrong type: last_bn.weight is int32, not floating-point",
        "  unexpected: conv2d_1a.conv.wieght (32, 3, 3, 3)",
    ]


def test_entries_without_a_part_in_inference_are_optional(facenet):
    weights = {k: v for k, v in facenet.weights.items() if not k.endswith("num_batches_tracked")}
    weights |= {"logits.weight": np.zeros((8631, 512), np.float32), "logits.bias": np.zeros(8631, np.float32)}
    assert equal(import_weights(facenet.network, weights, format="facenet")[1], facenet.variables)


def test_half_precision_becomes_float32(keras_v3):
    halves = {name: array.astype(np.float16) for name, array in keras_v3.weights.items()}
    _, variables = import_weights("inception_v3", halves, format="keras")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("network", "format", "message"),
    [
        ("inception_v4", "caffe", "caffe.* timm, keras, facenet"),
        ("inception_v4", "keras", "keras.* inception_v4.* inception_v3, inception_resnet_v2_slim"),
    ],
)
def test_unknown_formats_and_networks_are_rejected(network, format, message):
    with pytest.raises(UserError, match=message):
        import_weights(network, {}, format=format)


def test_networks_other_than_the_peers_are_not_exported(facenet):
    other = facenet.model.clone(residual_scales=(1.0, 1.0, 1.0))
    with pytest.raises(UserError, match=r"residual_scales.*\(0.17, 0.1, 0.2\).*\(1.0, 1.0, 1.0\)"):
        export_weights(other, facenet.variables, format="facenet")
    with pytest.raises(UserError, match="timm.* inception_resnet_v2"):
        export_weights(create_model("inception_resnet_v2"), {}, format="timm")
    params = {k: v for k, v in facenet.variables["params"].items() if k != "block_b_3"} | {
        "block_x": {"bias": np.ones(2)}
    }
    with pytest.raises(
        UserError, match=r"missing: our params/block_b_3/(.|\n)*unexpected: our params/block_x/bias \(2,\)"
    ):
        export_weights(facenet.model, facenet.variables | {"params": params}, format="facenet")


def test_scales_are_folded_into_keras_kernels(keras_v3):
    params = jax.tree.map(np.copy, keras_v3.variables["params"])
    params["stem_conv_1"]["bn"]["scale"][3] = -2
    exported = export_weights(keras_v3.model, keras_v3.variables | {"params": params}, format="keras")
    changed = {name for name, array in exported.items() if not np.array_equal(array, keras_v3.weights[name])}
    assert changed == {"conv2d/kernel", "batch_normalization/moving_mean"}
    theirs = keras_v3.weights["conv2d/kernel"]
    assert np.array_equal(exported["conv2d/kernel"][..., 3], -2 * theirs[..., 3])
    assert np.array_equal(exported["conv2d/kernel"][..., :3], theirs[..., :3])


@pytest.mark.parametrize("network", ["inception_resnet_v2_slim", "inception_resnet_v1_facenet"])
def test_folding_scales_keeps_the_function(network):
    model = create_model(network, width=0.05, depths=(1, 1, 1), num_classes=3)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1] == "scale":
            return rng.normal(size=leaf.shape) * rng.choice([1, 1e-6, 0], leaf.shape, p=[0.8, 0.1, 0.1])
        if path[-1] == "kernel":
            return leaf.astype(np.float64)
        return rng.uniform(0.5, 1.5, leaf.shape) * (rng.choice([1, -1], leaf.shape) if path[-1] != "var" else 1)

    drawn = flax.traverse_util.path_aware_map(draw, initial_variables(model, seed=0))
    moved = without_scales(flax.traverse_util.flatten_dict(drawn))
    scales = [scale for path, scale in moved.items() if path[-2:] == ("bn", "scale") and "classifier" not in path]
    assert len(scales) > 20 and all(np.all(scale == 1) for scale in scales)
    images = oracle_rng.images(2, 75, 75).astype(np.float64)
    with jax.enable_x64(True):
        apply = jax.jit(model.apply)
        expected = np.asarray(apply(drawn, images))
        assert_close(apply(flax.traverse_util.unflatten_dict(moved), images), expected, 1e-9)
    assert expected.dtype == np.float64 and np.ptp(expected) > 0.1


def test_an_export_to_other_average_pools_logs_a_warning(keras_v3, caplog):
    export_weights(keras_v3.model, keras_v3.variables, format="timm")
    assert "count_include_pad=True" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        export_weights(keras_v3.model, keras_v3.variables, format="keras")
    assert not caplog.records


# Keras' numbers


def renumbered(weights: dict[str, np.ndarray], convolutions: int, norms: int) -> dict[str, np.ndarray]:
    """The weights of a later network of the session."""
    numbered = {}
    for name, array in weights.items():
        layer, _, leaf = name.partition("/")
        for kind, offset in (("conv2d", convolutions), ("batch_normalization", norms)):
            if layer == kind or layer.startswith(f"{kind}_"):
                number = int(layer.removeprefix(kind).lstrip("_") or 0) + offset
                layer = f"{kind}_{number}" if number else kind
                break
        numbered[f"{layer}/{leaf}"] = array
    return numbered


def test_keras_layers_are_identified_by_the_order_of_their_numbers(keras_v3):
    later = renumbered(keras_v3.weights, 94, 1000)
    later["conv2d_5000/kernel"] = later.pop(f"conv2d_{94 + 93}/kernel")
    assert "conv2d_94/kernel" in later and "conv2d/kernel" not in later
    # In the order of their names, conv2d_100 would come before conv2d_94.
    for order in (sorted(later), sorted(later, reverse=True)):
        _, variables = import_weights("inception_v3", {name: later[name] for name in order}, format="keras")
        assert equal(variables, keras_v3.variables)


@pytest.mark.parametrize("offset", [0, 94])
def test_only_the_missing_keras_layer_is_named(keras_v3, offset):
    weights = renumbered(keras_v3.weights, offset, offset)
    del weights[f"conv2d_{offset + 7}/kernel"]
    with pytest.raises(UserError, match=rf"1 entry .*\n.*conv2d_{offset + 7}/kernel \(5, 5, 48, 64\)"):
        import_weights("inception_v3", weights, format="keras")


# Files


def test_safetensors_files(facenet, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file(facenet.weights, tmp_path / "facenet.safetensors")
    _, variables = import_weights(facenet.network, str(tmp_path / "facenet.safetensors"), format="facenet")
    assert equal(variables, facenet.variables)


KERAS_ARRAYS = {
    "conv2d_94/kernel": np.arange(2.0),
    "batch_normalization_94/beta": np.arange(3.0),
    "batch_normalization_94/moving_mean": np.arange(4.0),
    "batch_normalization_94/moving_variance": np.arange(5.0),
    "block35_1_conv/kernel": np.arange(6.0),
    "block35_1_conv/bias": np.arange(7.0),
    "predictions/kernel": np.arange(8.0),
    "predictions/bias": np.arange(9.0),
}
"""Names as in files written by Keras 3.15, with arrays of other sizes."""


def write_weights_h5(file) -> None:
    """Writes Keras 3's layout: groups by position, arrays by number, the layer's name as an attribute."""
    groups = {"conv2d_94": "conv2d", "block35_1_conv": "conv2d_1", "predictions": "dense"}
    file.create_group("layers/activation/vars").attrs["name"] = "activation_94"
    for name, array in KERAS_ARRAYS.items():
        layer, _, leaf = name.partition("/")
        group = file.require_group(f"layers/{groups.get(layer, 'batch_normalization')}/vars")
        group.attrs["name"] = layer
        group.create_dataset(str(len(group)), data=array)
    file.create_dataset("optimizer/vars/0", data=np.ones(1))


@pytest.mark.parametrize("inside", ["", "model_weights/"])
@pytest.mark.parametrize("suffix", ["", ":0"])
def test_keras_h5_files(tmp_path, inside, suffix):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "model.h5", "w") as file:
        for name, array in KERAS_ARRAYS.items():
            file.create_dataset(f"{inside}{name.partition('/')[0]}/{name}{suffix}", data=array)
        if inside:
            file.create_dataset("optimizer_weights/iteration", data=1)
    assert equal(files.read(tmp_path / "model.h5", "keras"), KERAS_ARRAYS)


def test_keras_weights_h5_and_keras_files(tmp_path):
    h5py, zipfile = pytest.importorskip("h5py"), pytest.importorskip("zipfile")
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        write_weights_h5(file)
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.write(path, "model.weights.h5")
    assert equal(files.read(path, "keras"), KERAS_ARRAYS)
    assert equal(files.read(tmp_path / "model.keras", "keras"), KERAS_ARRAYS)
    with h5py.File(path, "a") as file:
        del file["layers/dense/vars"].attrs["name"]
    with pytest.raises(UserError, match="model.weights.h5.* names of layers"):
        files.read(path, "keras")


@pytest.mark.parametrize("file", ["a.safetensors", "a.h5", "a.keras"])
def test_unreadable_files_are_rejected(tmp_path, file):
    format = "timm" if file.endswith("safetensors") else "keras"
    network, path = "inception_v3", tmp_path / file
    pytest.importorskip("h5py" if format == "keras" else "safetensors")
    with pytest.raises(UserError, match=f"no file .*{file}"):
        import_weights(network, path, format=format)
    path.write_bytes(b"no such thing")
    with pytest.raises(UserError, match=f"{file} cannot be read"):
        import_weights(network, path, format=format)
    with pytest.raises(UserError, match=f"{file}.* --format {format}"):
        import_weights(network, path, format="timm" if format == "keras" else "keras")
