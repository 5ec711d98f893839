"""What goes out gives the network's logits, in every format, or nothing goes out."""

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

PREPARATION = Preprocessing(
    image_size=75, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), label_offset=1, class_names=("a", "b")
)


def drawn(model: Network, seed: int = 0) -> dict[str, Any]:
    """Variables of which none is 0 or 1; scales are of either sign, a few near 0."""
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
def narrow() -> tuple[Network, dict[str, Any]]:
    model = create_model(
        "inception_resnet_v1", width=0.05, depths=(1, 1, 1), residual_scales=(0.3, 0.2, 0.1), num_classes=7
    )
    return model, drawn(model)


def equal(ours: Any, theirs: Any) -> bool:
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), ours, theirs)
    return all(jax.tree.leaves(same))


def images(count: int, size: int = 75) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)


def by_hand(images: np.ndarray) -> np.ndarray:
    unit = images.astype(np.float64) / 255
    return ((unit - PREPARATION.mean) / PREPARATION.std).astype(np.float32)


def expected_logits(network: tuple[Network, dict[str, Any]]) -> list[tuple[int, np.ndarray]]:
    model, variables = network
    logits = np.asarray(jax.jit(model.apply)(variables, by_hand(images(3))))
    return [(1, logits[:1]), (3, logits)]


# Weights


def test_an_exported_checkpoint_is_the_network(narrow, tmp_path):
    model, variables = narrow
    assert export_checkpoint(TrainedModel(model, variables, PREPARATION), tmp_path / "new" / "out", format="orbax") == 0
    again, loaded, preparation = load_checkpoint(tmp_path / "new" / "out")
    assert (again, preparation) == (model, PREPARATION)
    assert equal(loaded, variables)
    trained = TrainedModel(model, variables, PREPARATION)
    assert export_checkpoint(trained, tmp_path / "new" / "out", format="orbax", overwrite=True) == 0
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
def test_networks_of_no_peer_keep_every_bit_in_safetensors(tmp_path, network, options):
    pytest.importorskip("safetensors")
    model = create_model(network, width=0.04, **{"num_classes": 5} | options)
    variables, path = drawn(model), tmp_path / "out.safetensors"
    assert export_checkpoint(TrainedModel(model, variables, PREPARATION), path, format="safetensors") == 0
    again, imported = import_weights(network, path, format="inception_jax")
    assert again == model
    assert equal(imported, variables)
    facts = saved_metadata(path)
    assert facts["format"] == "inception_jax"
    assert facts["model"] == json.loads(json.dumps(describe(model)))
    assert facts["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert path.stat().st_mode & 0o444 == 0o444 & ~_umask(tmp_path)


def _umask(folder: Path) -> int:
    (folder / "probe").touch()
    return ~(folder / "probe").stat().st_mode & 0o777


def test_our_own_names_are_in_pytorchs_style(narrow):
    model, variables = narrow
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
def test_safetensors_has_the_names_of_the_peer_with_this_very_network(network, format):
    assert pytorch_format(create_model(network, num_classes=3)) == format
    assert pytorch_format(create_model(network, width=0.5)) == "inception_jax"
    assert pytorch_format(create_model(network, depths=(2, 2, 2))) == "inception_jax"


@pytest.mark.slow
def test_inception_v3_goes_to_timm_and_keras(tmp_path):
    pytest.importorskip("safetensors"), pytest.importorskip("h5py")
    model = create_model("inception_v3", num_classes=3, count_include_pad=True)
    variables = initial_variables(model, seed=0)
    for format, name in (("safetensors", "timm"), ("keras", "keras")):
        path = tmp_path / f"out{FORMATS[format].suffix}"
        assert export_checkpoint(TrainedModel(model, variables, PREPARATION), path, format=format) == 0
        again, preparation = import_checkpoint(str(path), tmp_path / format, "inception_v3", format=name)
        assert again == model.clone(count_include_pad=name == "timm")
        assert preparation == PREPARATION
        assert equal(load_checkpoint(tmp_path / format).variables, variables)
        assert saved_metadata(path)["format"] == name
    # Scales that are not 1 go into the kernels.
    path = tmp_path / "scaled.weights.h5"
    assert export_checkpoint(TrainedModel(model, drawn(model), PREPARATION), path, format="keras") < 1e-3


def test_a_file_of_ours_is_read_as_what_it_is(narrow, tmp_path):
    pytest.importorskip("safetensors")
    model, variables = narrow
    path = tmp_path / "out.safetensors"
    export_checkpoint(TrainedModel(model, variables, PREPARATION), path, format="safetensors")
    again, imported = import_weights("inception_resnet_v1", path, format="inception_jax", num_classes=4)
    assert again.num_classes == 4
    assert imported["params"]["classifier"]["kernel"].shape[1] == 4
    with pytest.raises(UserError, match="holds inception_resnet_v1, not inception_v4"):
        import_weights("inception_v4", path, format="inception_jax")
    with pytest.raises(UserError, match="are read from a file"):
        import_weights("inception_v4", {}, format="inception_jax")
    arrays = files.read(path, "inception_jax")
    files.write_safetensors(tmp_path / "bare.safetensors", arrays, {})
    with pytest.raises(UserError, match="does not say that it is in the format"):
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
def test_stablehlo_is_the_function_for_any_number_of_images(narrow, tmp_path, with_preprocessing):
    pytest.importorskip("flatbuffers")
    model, variables = narrow
    path = tmp_path / "out.stablehlo"
    difference = export_checkpoint(
        TrainedModel(model, variables, PREPARATION), path, format="stablehlo", with_preprocessing=with_preprocessing
    )
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert exported.in_avals[0].dtype == ("uint8" if with_preprocessing else "float32")
    for count, expected in expected_logits(narrow):
        got = exported.call(images(count) if with_preprocessing else by_hand(images(count)))
        assert got.shape == (count, 7)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
    assert difference <= 1e-4 * max(1, np.abs(expected).max())
    described = json.loads((tmp_path / "out.stablehlo.json").read_text())
    assert described.pop("format") == FORMAT
    check_description(described, model, with_preprocessing)


def check_description(described: dict[str, Any], model: Network, with_preprocessing: bool) -> None:
    """What a caller of the function needs is said in its metadata."""
    assert Preprocessing.from_dict(described["preprocessing"]) == PREPARATION
    assert create_model(**described["model"]) == model
    assert described["input"]["shape"] == ["batch", 75, 75, 3] and described["output"]["shape"] == ["batch", 7]
    assert described["input"]["dtype"] == ("uint8" if with_preprocessing else "float32")
    assert ("mean" in described["input"]["values"]) != with_preprocessing


@pytest.mark.skipif(not importlib.util.find_spec("jax2onnx"), reason="jax2onnx is not installed")
@pytest.mark.filterwarnings("default")  # jax2onnx' own
@pytest.mark.parametrize("with_preprocessing", [False, True])
def test_onnx_is_the_function_for_any_number_of_images(narrow, tmp_path, with_preprocessing):
    model, variables = narrow
    path = tmp_path / "out.onnx"
    export_checkpoint(
        TrainedModel(model, variables, PREPARATION), path, format="onnx", with_preprocessing=with_preprocessing
    )
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
    onnx, runtime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count, expected in expected_logits(narrow):
        given = images(count) if with_preprocessing else by_hand(images(count))
        (got,) = session.run(None, {"images": given})
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
    texts = session.get_modelmeta().custom_metadata_map
    assert texts["inception_jax.file_format"] == str(FORMAT)
    check_description(metadata.from_texts(path, texts), model, with_preprocessing)


# What is refused, and what is left behind


@pytest.mark.parametrize("format", ["orbax", "stablehlo"])
def test_a_file_that_is_not_the_network_leaves_the_old_one(narrow, tmp_path, monkeypatch, format):
    model, variables = narrow
    pytest.importorskip("flatbuffers")
    out = tmp_path / f"out{FORMATS[format].suffix}"
    export_checkpoint(TrainedModel(model, variables, PREPARATION), out, format=format)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    right = FORMATS[format]

    def wrong(path, trained):
        bias = trained.variables["params"]["classifier"]["bias"]
        params = trained.variables["params"] | {
            "classifier": trained.variables["params"]["classifier"] | {"bias": bias + 0.5}
        }
        changed = trained._replace(variables=trained.variables | {"params": params})
        right.write(path, changed)

    monkeypatch.setitem(FORMATS, format, dataclasses.replace(right, write=wrong))
    with pytest.raises(RunFailed, match="differ by 0.5 from the network's"):
        export_checkpoint(TrainedModel(model, variables, PREPARATION), out, format=format, overwrite=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    with pytest.raises(RunFailed):
        export_checkpoint(TrainedModel(model, variables, PREPARATION), tmp_path / f"new{right.suffix}", format=format)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_network_without_finite_logits_is_not_exported(narrow, tmp_path):
    model, variables = narrow
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), variables)
    with pytest.raises(RunFailed, match="differ by nan"):
        export_checkpoint(TrainedModel(model, broken, PREPARATION), tmp_path / "out", format="orbax")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "out", "message"),
    [
        ("caffe", "out", "no format 'caffe'; there are orbax, safetensors, keras, stablehlo, onnx"),
        ("keras", "out.h5", "is not a name for keras, whose files end in .weights.h5"),
        ("keras", "out.weights.h5", "keras has no inception_resnet_v1"),
        ("safetensors", "folder.safetensors", "is a directory; safetensors is one file"),
        ("orbax", "folder.safetensors", "exists and is not an exported checkpoint"),
    ],
)
def test_what_cannot_be_written_is_said_in_a_sentence(narrow, tmp_path, format, out, message):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match=message):
        export_checkpoint(TrainedModel(*narrow, PREPARATION), tmp_path / out, format=format)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.safetensors"]


def test_only_functions_take_the_preprocessing(narrow, tmp_path):
    with pytest.raises(UserError, match="safetensors holds weights, .* stablehlo, onnx can"):
        export_checkpoint(
            TrainedModel(*narrow, PREPARATION),
            tmp_path / "a.safetensors",
            format="safetensors",
            with_preprocessing=True,
        )


@pytest.mark.parametrize(
    ("format", "library"),
    [("safetensors", "safetensors"), ("stablehlo", "flatbuffers"), ("onnx", "jax2onnx")],
)
def test_a_missing_library_is_named(narrow, tmp_path, monkeypatch, format, library):
    for module in [name for name in sys.modules if name.split(".")[0] == library] + [library]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"needs {library}, which is not installed"):
        export_checkpoint(TrainedModel(*narrow, PREPARATION), tmp_path / f"out{FORMATS[format].suffix}", format=format)


# Keras' files


@pytest.mark.parametrize(
    ("network", "group", "layer"),
    [
        # As in files that Keras 3.15 wrote.
        ("inception_v3", "conv2d_5", "conv2d_8"),
        ("inception_v3", "batch_normalization_76", "batch_normalization_80"),
        ("inception_v3", "conv2d_92", "conv2d_85"),
        ("inception_v3", "dense", "predictions"),
        ("inception_resnet_v2_slim", "conv2d_18", "block35_1_conv"),
        ("inception_resnet_v2_slim", "conv2d_243", "conv_7b"),
        ("inception_resnet_v2_slim", "batch_normalization_18", "batch_normalization_21"),
    ],
)
def test_keras_groups_are_counted_from_the_image(network, group, layer):
    groups = names.keras_groups(names.NETWORKS["keras", network].table())
    assert groups[group] == layer
    assert len(groups) == {"inception_v3": 189, "inception_resnet_v2_slim": 449}[network]
