"""Exports reproduce the network's logits in every format, or fail and write nothing."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import RunFailed, UserError
from inception_jax.models import create_model, describe
from inception_jax.models.initialize import initial_variables
from inception_jax.models.network import Network
from inception_jax.system.file_format import FORMAT
from inception_jax.weights import export_weights, import_weights, metadata, pytorch_format, saved_metadata
from inception_jax.weights.checkpoint import TrainedModel, load_checkpoint
from inception_jax.weights.export import FORMATS, export_checkpoint
from inception_jax.weights.importer import import_checkpoint
from inception_jax.weights.peers import files, names

PREPROCESSING = Preprocessing(
    image_size=75, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), label_offset=1, class_names=("a", "b")
)


def drawn(model: Network, seed: int = 0) -> dict[str, Any]:
    """Variables other than 0 and 1; scales are of either sign, a few near 0."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "scale":
            return (rng.normal(size=leaf.shape) * rng.choice([1, 1, 1e-6], leaf.shape)).astype(np.float32)
        if name in ("bias", "mean"):
            return rng.normal(size=leaf.shape).astype(np.float32)
        return rng.uniform(0.5, 2, leaf.shape).astype(np.float32) if name == "var" else leaf

    return jax.tree_util.tree_map_with_path(draw, initial_variables(model, seed=seed))


@pytest.fixture(scope="module")
def narrow() -> TrainedModel:
    model = create_model(
        "inception_resnet_v1", width=0.05, depths=(1, 1, 1), residual_scales=(0.3, 0.2, 0.1), num_classes=7
    )
    return TrainedModel(model, drawn(model), PREPROCESSING)


def equal(ours: Any, theirs: Any) -> bool:
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), ours, theirs)
    return all(jax.tree.leaves(same))


def images(count: int, size: int = 75) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)


def normalised(images: np.ndarray) -> np.ndarray:
    unit = images.astype(np.float64) / 255
    return ((unit - PREPROCESSING.mean) / PREPROCESSING.std).astype(np.float32)


def expected_logits(trained: TrainedModel) -> list[tuple[int, np.ndarray]]:
    logits = np.asarray(jax.jit(trained.model.apply)(trained.variables, normalised(images(3))))
    return [(1, logits[:1]), (3, logits)]


# Weights


def test_an_exported_checkpoint_holds_the_network(narrow, tmp_path):
    for overwrite in (False, True):  # The second export replaces the first.
        assert export_checkpoint(narrow, tmp_path / "new" / "out", format="orbax", overwrite=overwrite) == 0
    loaded = load_checkpoint(tmp_path / "new" / "out")
    assert (loaded.model, loaded.preprocessing) == (narrow.model, PREPROCESSING)
    assert equal(loaded.variables, narrow.variables)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("inception_v3", {"aux_head": True}),
        ("inception_v4", {"depths": (1, 1, 1), "num_classes": 0}),
        ("inception_resnet_v1_facenet", {"depths": (1, 1, 1), "residual_scales": 0.3}),
        ("inception_resnet_v2", {"depths": (1, 1, 1), "aux_head": True, "dtype": "bfloat16"}),
    ],
)
def test_safetensors_of_networks_without_a_peer_are_exact(tmp_path, network, options):
    pytest.importorskip("safetensors")
    model = create_model(network, width=0.04, **{"num_classes": 5} | options)
    variables, path = drawn(model), tmp_path / "out.safetensors"
    assert export_checkpoint(TrainedModel(model, variables, PREPROCESSING), path, format="safetensors") == 0
    again, imported = import_weights(network, path, format="inception_jax")
    assert again == model
    assert equal(imported, variables)
    metadata = saved_metadata(path)
    assert metadata["format"] == "inception_jax"
    assert metadata["model"] == json.loads(json.dumps(describe(model)))
    assert metadata["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert path.stat().st_mode & 0o444 == 0o444 & ~_umask(tmp_path)


def _umask(folder: Path) -> int:
    (folder / "probe").touch()
    return ~(folder / "probe").stat().st_mode & 0o777


def test_our_own_names_are_in_pytorchs_style(narrow):
    model, variables, _ = narrow
    exported = export_weights(model, variables, format="inception_jax")
    kernel = variables["params"]["block_a_1"]["branch_2"]["conv_2"]["conv"]["kernel"]
    assert np.array_equal(exported["block_a_1.branch_2.conv_2.conv.weight"], kernel.transpose(3, 2, 0, 1))
    assert exported["block_a_1.branch_2.conv_2.bn.running_var"].ndim == 1
    assert np.array_equal(exported["classifier.weight"], variables["params"]["classifier"]["kernel"].T)
    assert all(array.flags.c_contiguous for array in exported.values())


@pytest.mark.parametrize(
    ("network", "format"),
    [
        ("inception_v4", "timm"),
        ("inception_resnet_v2_slim", "timm"),
        ("inception_resnet_v1_facenet", "facenet"),
        ("inception_resnet_v1", "inception_jax"),
    ],
)
def test_safetensors_has_the_names_of_the_peer_with_the_same_network(network, format):
    assert pytorch_format(create_model(network, num_classes=3)) == format
    assert pytorch_format(create_model(network, width=0.5)) == "inception_jax"
    assert pytorch_format(create_model(network, depths=(2, 2, 2))) == "inception_jax"


@pytest.mark.slow
def test_inception_v3_is_exported_to_timm_and_keras(tmp_path):
    pytest.importorskip("safetensors"), pytest.importorskip("h5py")
    model = create_model("inception_v3", num_classes=3, count_include_pad=True)
    variables = initial_variables(model, seed=0)
    for format, name in (("safetensors", "timm"), ("keras", "keras")):
        path = tmp_path / f"out{FORMATS[format].suffix}"
        assert export_checkpoint(TrainedModel(model, variables, PREPROCESSING), path, format=format) == 0
        again, preprocessing = import_checkpoint(str(path), tmp_path / format, "inception_v3", format=name)
        assert again == model.clone(count_include_pad=name == "timm")
        assert preprocessing == PREPROCESSING
        assert equal(load_checkpoint(tmp_path / format).variables, variables)
        assert saved_metadata(path)["format"] == name
    # Scales other than 1 are folded into the kernels.
    path = tmp_path / "scaled.weights.h5"
    assert export_checkpoint(TrainedModel(model, drawn(model), PREPROCESSING), path, format="keras") < 1e-3


def test_our_own_files_are_imported_by_their_metadata(narrow, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "out.safetensors"
    export_checkpoint(narrow, path, format="safetensors")
    again, imported = import_weights("inception_resnet_v1", path, format="inception_jax", num_classes=4)
    assert again.num_classes == 4
    assert imported["params"]["classifier"]["kernel"].shape[1] == 4
    with pytest.raises(UserError, match="inception_resnet_v1.* inception_v4"):
        import_weights("inception_v4", path, format="inception_jax")
    with pytest.raises(UserError, match="inception_jax.* file"):
        import_weights("inception_v4", {}, format="inception_jax")
    arrays = files.read(path, "inception_jax")
    files.write_safetensors(tmp_path / "bare.safetensors", arrays, {})
    with pytest.raises(UserError, match="bare.safetensors.* inception_jax"):
        import_weights("inception_resnet_v1", tmp_path / "bare.safetensors", format="inception_jax")


def test_class_names_of_any_kind_and_number_go_out_and_come_back(tmp_path):
    """HDF5 holds 64 KiB in an attribute of fixed length; ImageNet-21k's names take more."""
    pytest.importorskip("safetensors"), pytest.importorskip("h5py")
    names = tuple(f"класс {i} \udcff\n" for i in range(20_000))
    texts = metadata.to_texts({"preprocessing": Preprocessing(class_names=names).to_dict(), "model": None})
    assert set(texts) == {"inception_jax.file_format", "inception_jax.preprocessing"}
    files.write_safetensors(tmp_path / "a.safetensors", {"x": np.zeros(1)}, texts)
    files.write_weights_h5(tmp_path / "a.weights.h5", {}, {}, texts)
    for path in tmp_path.iterdir():
        assert Preprocessing.from_dict(saved_metadata(path)["preprocessing"]).class_names == names


# Functions


@pytest.mark.parametrize("with_preprocessing", [False, True])
def test_stablehlo_computes_the_logits_of_any_number_of_images(narrow, tmp_path, with_preprocessing):
    pytest.importorskip("flatbuffers")
    path = tmp_path / "out.stablehlo"
    difference = export_checkpoint(narrow, path, format="stablehlo", with_preprocessing=with_preprocessing)
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert exported.in_avals[0].dtype == ("uint8" if with_preprocessing else "float32")
    for count, expected in expected_logits(narrow):
        got = exported.call(images(count) if with_preprocessing else normalised(images(count)))
        assert got.shape == (count, 7)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
    assert difference <= 1e-4 * max(1, np.abs(expected).max())
    described = json.loads((tmp_path / "out.stablehlo.json").read_text())
    assert described.pop("format") == FORMAT
    check_description(described, narrow.model, with_preprocessing)


def check_description(described: dict[str, Any], model: Network, with_preprocessing: bool) -> None:
    """What a caller of the function needs is said in its metadata."""
    assert Preprocessing.from_dict(described["preprocessing"]) == PREPROCESSING
    assert create_model(**described["model"]) == model
    assert described["input"]["shape"] == ["batch", 75, 75, 3] and described["output"]["shape"] == ["batch", 7]
    assert described["input"]["dtype"] == ("uint8" if with_preprocessing else "float32")
    assert ("mean" in described["input"]["values"]) != with_preprocessing


@pytest.mark.skipif(not importlib.util.find_spec("jax2onnx"), reason="jax2onnx is not installed")
@pytest.mark.filterwarnings("default")  # jax2onnx' own
@pytest.mark.parametrize("with_preprocessing", [False, True])
def test_onnx_computes_the_logits_of_any_number_of_images(narrow, tmp_path, with_preprocessing):
    path = tmp_path / "out.onnx"
    export_checkpoint(narrow, path, format="onnx", with_preprocessing=with_preprocessing)
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
    onnx, runtime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count, expected in expected_logits(narrow):
        given = images(count) if with_preprocessing else normalised(images(count))
        (got,) = session.run(None, {"images": given})
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
    texts = session.get_modelmeta().custom_metadata_map
    assert texts["inception_jax.file_format"] == str(FORMAT)
    check_description(metadata.from_texts(path, texts), narrow.model, with_preprocessing)


# Failed exports


@pytest.mark.parametrize("format", ["orbax", "stablehlo"])
def test_an_export_with_other_logits_leaves_the_old_file(narrow, tmp_path, monkeypatch, format):
    pytest.importorskip("flatbuffers")
    correct = FORMATS[format]
    out = tmp_path / f"out{correct.suffix}"
    export_checkpoint(narrow, out, format=format)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def write_other_bias(path, trained):
        params = trained.variables["params"]
        classifier = params["classifier"] | {"bias": params["classifier"]["bias"] + 0.5}
        variables = trained.variables | {"params": params | {"classifier": classifier}}
        correct.write(path, trained._replace(variables=variables))

    monkeypatch.setitem(FORMATS, format, dataclasses.replace(correct, write=write_other_bias))
    for path in (out, tmp_path / f"new{correct.suffix}"):
        with pytest.raises(RunFailed, match=" 0.5 "):
            export_checkpoint(narrow, path, format=format, overwrite=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_network_with_non_finite_logits_is_not_exported(narrow, tmp_path):
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), narrow.variables)
    with pytest.raises(RunFailed, match=" nan "):
        export_checkpoint(narrow._replace(variables=broken), tmp_path / "out", format="orbax")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "out", "options", "message"),
    [
        ("caffe", "out", {}, "'caffe'.* orbax, safetensors, keras, stablehlo, onnx"),
        ("keras", "out.h5", {}, "out.h5.* .weights.h5"),
        ("keras", "out.weights.h5", {}, "keras.* inception_resnet_v1"),
        ("safetensors", "folder.safetensors", {}, "folder.safetensors.* directory"),
        ("orbax", "folder.safetensors", {}, "folder.safetensors"),
        ("safetensors", "a.safetensors", {"with_preprocessing": True}, "safetensors.* stablehlo or onnx"),
    ],
)
def test_impossible_exports_are_rejected(narrow, tmp_path, format, out, options, message):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match=message):
        export_checkpoint(narrow, tmp_path / out, format=format, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.safetensors"]


@pytest.mark.parametrize(
    ("format", "library"),
    [("safetensors", "safetensors"), ("stablehlo", "flatbuffers"), ("onnx", "jax2onnx")],
)
def test_a_missing_library_is_named(narrow, tmp_path, monkeypatch, format, library):
    for module in [name for name in sys.modules if name.split(".")[0] == library] + [library]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=library):
        export_checkpoint(narrow, tmp_path / f"out{FORMATS[format].suffix}", format=format)


# Keras' files


@pytest.mark.parametrize(
    ("network", "group", "layer"),
    [
        # As in files written by Keras 3.15.
        ("inception_v3", "conv2d_5", "conv2d_8"),
        ("inception_v3", "batch_normalization_76", "batch_normalization_80"),
        ("inception_v3", "conv2d_92", "conv2d_85"),
        ("inception_v3", "dense", "predictions"),
        ("inception_resnet_v2_slim", "conv2d_18", "block35_1_conv"),
        ("inception_resnet_v2_slim", "conv2d_243", "conv_7b"),
        ("inception_resnet_v2_slim", "batch_normalization_18", "batch_normalization_21"),
    ],
)
def test_keras_groups_are_numbered_from_the_image(network, group, layer):
    groups = names.keras_groups(names.NETWORKS["keras", network].table())
    assert groups[group] == layer
    assert len(groups) == {"inception_v3": 189, "inception_resnet_v2_slim": 449}[network]
