"""Weight files as trainers leave them: prefixes, wrappers and copies, other heads, other networks, names of classes."""

import json
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from inception_jax.cli import main
from inception_jax.data.preprocess import Preprocessing
from inception_jax.errors import UserError
from inception_jax.models import create_model
from inception_jax.models.inception_v3 import InceptionV3
from inception_jax.system import extras
from inception_jax.weights import import_weights, importer
from inception_jax.weights.checkpoint import load_checkpoint
from inception_jax.weights.importer import import_checkpoint
from inception_jax.weights.peers import copies, files, heads, layout, names, pytorch
from inception_jax.weights.peers.checks import recognise

ROOT = Path(__file__).parents[1]
FILES = Path(__file__).parent / "golden" / "peer_files"
GOLDEN = Path(__file__).parent / "golden"
DESCRIPTIONS = {
    ("timm", "inception_v3"): "timm_inception_v3",
    ("timm", "inception_v4"): "timm_inception_v4",
    ("timm", "inception_resnet_v2_slim"): "timm_inception_resnet_v2",
    ("facenet", "inception_resnet_v1_facenet"): "facenet_inception_resnet_v1",
    ("keras", "inception_v3"): "keras_inception_v3",
    ("keras", "inception_resnet_v2_slim"): "keras_inception_resnet_v2",
}


def peer(format, network):
    """A peer's mapping of zeros, which take no memory."""
    state = json.loads((GOLDEN / f"{DESCRIPTIONS[format, network]}.json").read_text())["state"]
    return {entry["name"]: zeros(*entry["shape"]) for entry in state}


def zeros(*shape, dtype=np.float32):
    return np.broadcast_to(np.zeros((), dtype), shape)


def dense(name, inputs, outputs, fill=1.0, peer="timm"):
    """The arrays of a dense layer."""
    kernel, bias = np.full((inputs, outputs), fill, np.float32), np.full(outputs, fill, np.float32)
    if peer == "keras":
        return {f"{name}/kernel": kernel, f"{name}/bias": bias}
    return {f"{name}.weight": kernel.T, f"{name}.bias": bias}


TIMM = peer("timm", "inception_v3")
TRUNK = {name: array for name, array in TIMM.items() if not name.startswith("fc.")}
KERAS = {name: a for name, a in peer("keras", "inception_v3").items() if not name.startswith("predictions")}


def arrange(given, format="timm", *, new_head=False, copy=None):
    """What would be imported of Inception-v3, without the conversion of 24 million zeros."""
    peer, network = layout.FORMATS[format], names.NETWORKS[format, "inception_v3"]
    chosen, said = copies.choose(copies.find(peer, network.table(), given), copy, peer.separator)
    return heads.arrange(peer, chosen, network.features, "", new_head=new_head), said


def prefixed(prefix, arrays):
    return {f"{prefix}{name}": array for name, array in arrays.items()}


# Files as PyTorch and Keras wrote them


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.iterdir()))
def test_files_of_pytorch_and_keras_are_read(name):
    format = "keras" if name.endswith(files.SUFFIXES["keras"]) else "timm"
    arrays = files.read(FILES / name, format)
    prefix = {"trainer.pth.tar": "state_dict.module.", "model.h5": "base/"}.get(name, "")
    if format == "keras":
        prefix = prefix or "sequential/"
        normalisation = [f"{prefix}batch_normalization/{a}" for a in ("beta", "moving_mean", "moving_variance")]
        shapes = {f"{prefix}conv2d/kernel": (3, 3, 3, 2), "dense/kernel": (2, 3), "dense/bias": (3,)}
        shapes |= dict.fromkeys(normalisation, (2,))
    else:
        normalisation = [f"{prefix}1.{a}" for a in ("weight", "bias", "running_mean", "running_var")]
        shapes = {f"{prefix}0.weight": (2, 1, 3, 3), f"{prefix}2.weight": (3, 2), f"{prefix}2.bias": (3,)}
        shapes |= dict.fromkeys(normalisation, (2,)) | {f"{prefix}1.num_batches_tracked": ()}
    assert {name: array.shape for name, array in arrays.items()} == shapes
    for array in arrays.values():
        assert np.array_equal(np.asarray(array, np.float32).ravel(), np.arange(array.size))
    assert name != "bfloat16.ckpt" or {array.dtype.name for array in arrays.values()} == {"bfloat16"}


def test_class_names_beside_a_state_dictionary_are_read_in_the_order_of_their_numbers():
    assert files.read_class_names(FILES / "trainer.pth.tar", 3) == ("cat", "dog", "fox")
    assert files.read_class_names(FILES / "trainer.pth.tar", 4) == ()
    assert files.read_class_names(FILES / "state.pt", 3) == ()
    assert files.read_class_names(FILES / "model.h5", 3) == ()
    assert pytorch.class_names({"model": {}, "classes": ["1", "10", "2"]}, 3) == ("1", "10", "2")


def test_a_pickle_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    (tmp_path / "a.pth").write_bytes(b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})))
    with (tmp_path / "a.pth").open("ab") as file:
        file.write(pickle.dumps({"a": Evil()}, 2) + pickle.dumps([], 2))
    assert files.read(tmp_path / "a.pth", "timm") == {}
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["state.pt", "legacy.pth", "model.weights.h5"])
def test_broken_files_end_in_one_sentence_or_the_right_arrays(name, tmp_path):
    data, rng = (FILES / name).read_bytes(), random.Random(0)
    format = "keras" if name.endswith("h5") else "timm"
    sound = 0
    for _ in range(60):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (tmp_path / name).write_bytes(broken[: rng.choice([len(data), len(data), rng.randrange(len(data))])])
        try:
            sound += bool(files.read(tmp_path / name, format))
        except UserError as error:
            assert name in str(error)
    assert sound


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x89HDF\r\n", "--format keras"),
        (b"\0" * 40 + bytes.fromhex("57fb808b247547db"), "TensorFlow"),
        (b"", "PyTorch"),
    ],
)
def test_files_of_another_kind_are_named(start, words, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(start)
    with pytest.raises(UserError, match=rf"model.ckpt .*{words}"):
        files.read(tmp_path / "model.ckpt", "timm")


def test_parts_of_a_file_are_read_together_and_a_missing_one_is_named(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    parts = [tmp_path / f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, part in enumerate(parts):
        save_file({f"fc.{i}": np.arange(i + 1.0)}, part)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"fc.{i}": part.name for i, part in enumerate(parts)}}))
    for path in (index, *parts):
        assert sorted(files.read(path, "timm")) == ["fc.0", "fc.1"]
    parts[0].unlink()
    for path in (index, parts[1]):
        with pytest.raises(UserError, match=rf"{path.name} .*{parts[0].name}"):
            files.read(path, "timm")


# Prefixes, wrappers and copies


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: prefixed("module.", state),
        lambda state: prefixed("state_dict.model.backbone.", state) | {"optimizer.state.0.exp_avg": zeros(3)},
        lambda state: prefixed("model._orig_mod.", state),
        lambda state: {
            name.replace("Mixed_5b.", "Mixed_5b._checkpoint_wrapped_module."): a for name, a in state.items()
        },
        lambda state: {name: array for name, array in state.items() if "num_batches" not in name},
        lambda state: (
            dict(list(prefixed("module.", state).items())[1:])
            | {"module.n_averaged": zeros()}
            | {next(iter(prefixed("module.", state))): next(iter(state.values()))}
        ),
        lambda state: state | {"criterion.weight": zeros(3)},
        lambda state: {name: array.astype(np.float16) for name, array in state.items()},
    ],
)
def test_the_network_is_found_below_what_trainers_put_around_it(wrap):
    found, said = arrange(wrap(TRUNK | dense("fc", 2048, 3)))
    expected = {name for name in TRUNK if "num_batches" not in name} | {"fc.weight", "fc.bias"}
    assert found.arrays.keys() == expected and found.has_head and not said
    assert np.all(found.arrays["fc.weight"] == np.ones((3, 2048))) and found.left_out.keys() <= {"criterion.weight"}


@pytest.mark.parametrize(
    ("prefixes", "choice", "taken"),
    [
        (["state_dict.", "state_dict_ema."], None, 1),
        (["state_dict.", "state_dict_ema."], "state_dict", 0),
        (["ema_model.module.", "online.module."], None, 0),
        (["", "ema."], None, 1),
        (["", "ema."], "the whole file", 0),
        (["student.", "teacher."], "teacher", 1),
        (["student.", "teacher."], None, None),
        (["student.", "teacher."], "pupil", None),
    ],
)
def test_of_several_copies_the_averaged_or_the_chosen_one_is_taken(prefixes, choice, taken):
    given = {}
    for i, prefix in enumerate(prefixes):
        given |= prefixed(prefix, TRUNK | dense("fc", 2048, 3, fill=i))
    if taken is None:
        with pytest.raises(
            UserError, match="student, teacher.*--copy" if choice is None else "pupil.*student, teacher"
        ):
            import_weights("inception_v3", given, format="timm", copy=choice)
        return
    found, said = arrange(given, copy=choice)
    assert np.all(found.arrays["fc.bias"] == taken)
    assert choice is not None or ("averaged" in said and (prefixes[1 - taken].rstrip(".") or "the whole file") in said)


# Heads

OTHER_HEADS = [
    ("timm", TRUNK | dense("fc.0", 2048, 64) | dense("fc.2", 64, 3), "fc.0.weight (64, 2048)"),
    ("timm", TRUNK | dense("fc", 2048, 1000) | dense("head", 1000, 3), "head.weight (3, 1000)"),
    (
        "timm",
        prefixed("backbone.", TRUNK) | dense("norm", 2048, 2048) | dense("head", 2048, 3),
        "head.weight (3, 2048)",
    ),
    ("keras", KERAS | dense("dense", 2048, 64, peer="keras") | dense("dense_1", 64, 3, peer="keras"), "dense/kernel"),
    (
        "keras",
        prefixed("inception_v3/", KERAS)
        | {f"batch_normalization_94/{a}": zeros(2048) for a in ("beta", "gamma", "moving_mean", "moving_variance")}
        | dense("dense", 2048, 3, peer="keras"),
        "batch_normalization_94/gamma (2048,)",
    ),
    ("keras", KERAS | dense("dense", 131072, 3, peer="keras"), "dense/kernel (131072, 3)"),
]


@pytest.mark.parametrize(("format", "given", "listed"), OTHER_HEADS)
def test_another_head_needs_num_classes_and_what_is_left_out_is_named(format, given, listed):
    with pytest.raises(UserError) as error:
        import_weights("inception_v3", given, format=format)
    assert listed in str(error.value) and "--num-classes N" in str(error.value) and "\n" not in str(error.value)
    found, _ = arrange(given, format, new_head=True)
    assert not found.has_head and listed in heads.describe(found.left_out)
    assert len(found.arrays) == sum("num_batches" not in name for name in (TRUNK if format == "timm" else KERAS))


def test_the_trunk_gets_a_new_head_and_what_is_left_out_is_said(caplog):
    format, given, listed = OTHER_HEADS[0]
    model, variables = import_weights("inception_v3", given, format=format, num_classes=3)
    assert model.num_classes == 3 and variables["params"]["classifier"]["kernel"].shape == (2048, 3)
    assert "left out" in caplog.text and listed in caplog.text and "is new" in caplog.text


@pytest.mark.parametrize(("format", "given"), [("timm", TRUNK), ("keras", KERAS)])
def test_a_trunk_alone_needs_num_classes(format, given):
    with pytest.raises(UserError, match="notop.*--num-classes N"):
        import_weights("inception_v3", given, format=format)
    found, _ = arrange(given, format, new_head=True)
    assert not found.has_head and not found.left_out


@pytest.mark.parametrize(
    ("format", "given"),
    [
        ("timm", TRUNK | dense("fc.1", 2048, 3)),
        ("timm", prefixed("state_dict.backbone.", TRUNK) | dense("state_dict.head", 2048, 3)),
        ("keras", KERAS | dense("dense", 2048, 3, peer="keras")),
        ("keras", prefixed("inception_v3/", KERAS) | dense("my_head", 2048, 3, peer="keras")),
        ("keras", prefixed("base/functional/", KERAS) | dense("base/dense", 2048, 3, peer="keras")),
    ],
)
@pytest.mark.parametrize("new_head", [False, True])
def test_one_dense_layer_on_the_features_is_the_classifier(format, given, new_head):
    found, _ = arrange(given, format, new_head=new_head)
    kernel = "fc.weight" if format == "timm" else "predictions/kernel"
    assert found.has_head and not found.left_out and np.all(found.arrays[kernel] == 1)


def test_a_dense_layer_without_bias_has_a_bias_of_0():
    given = TRUNK | {"head.weight": np.ones((3, 2048), np.float32)}
    assert arrange(given)[0].arrays["fc.bias"].tolist() == [0, 0, 0]


def test_a_sigmoid_becomes_two_classes(caplog):
    given = KERAS | dense("dense", 2048, 1, fill=0.5, peer="keras")
    model, variables = import_weights("inception_v3", given, format="keras")
    assert model.num_classes == 2 and "two classes" in caplog.text
    assert variables["params"]["classifier"]["bias"].tolist() == [0, 0.5]
    assert variables["params"]["classifier"]["kernel"][7].tolist() == [0, 0.5]


@pytest.mark.parametrize(
    ("kind", "values", "word"),
    [
        ("GlobalMaxPooling2D", {}, "GlobalMaxPooling2D"),
        ("Flatten", {}, "Flatten"),
        ("Dense", {"units": 5, "activation": "sigmoid"}, "5 outputs are sigmoids"),
        ("Dense", {"units": 5, "activation": "relu"}, "relu"),
        ("Dense", {"units": 1, "activation": "sigmoid"}, ""),
        ("Dense", {"units": 5, "activation": "softmax"}, ""),
    ],
)
def test_a_head_of_another_function_is_no_classifier(kind, values, word):
    inner = {"class_name": "Functional", "config": {"layers": [{"class_name": kind, "config": values}]}}
    found = heads.objection({"class_name": "Sequential", "config": {"layers": [inner]}})
    assert word in found and bool(word) == bool(found)


# Other networks


@pytest.mark.parametrize(("format", "network"), DESCRIPTIONS)
def test_each_network_is_recognised_by_its_names(format, network):
    given = peer(format, network)
    assert recognise(given) == (format, network)
    assert recognise(prefixed("model/" if format == "keras" else "model.", given)) == (format, network)
    assert recognise({f"layer{i}.weight": zeros(1) for i in range(300)}) is None


@pytest.mark.parametrize(
    ("format", "network", "asked"),
    [
        ("timm", "inception_v4", ("timm", "inception_v3")),
        ("timm", "inception_v4", ("timm", "inception_resnet_v2")),
        ("timm", "inception_resnet_v2_slim", ("facenet", "inception_resnet_v1")),
        ("facenet", "inception_resnet_v1_facenet", ("timm", "inception_resnet_v2")),
        ("keras", "inception_resnet_v2_slim", ("keras", "inception_v3")),
        ("keras", "inception_v3", ("keras", "inception_resnet_v2")),
    ],
)
def test_another_network_is_named_in_one_sentence(format, network, asked):
    with pytest.raises(UserError) as error:
        import_weights(asked[1], peer(format, network), format=asked[0], num_classes=3)
    message = str(error.value)
    assert f"--model {network} --format {format}" in message and len(message) < 250 and "\n" not in message


def test_other_widths_and_unknown_names_are_refused_in_one_sentence():
    narrow = {name: zeros(*(max(1, size // 2) for size in array.shape)) for name, array in TIMM.items()}
    for given, words in ((narrow, "other widths"), ({f"layer{i}.weight": zeros(1) for i in range(9)}, "layer0.weight")):
        with pytest.raises(UserError, match=words) as error:
            import_weights("inception_v3", given, format="timm")
        assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused():
    broken = TIMM | {"fc.bias": np.full(1000, np.nan, np.float32)}
    with pytest.raises(UserError, match="not finite in 1 arrays, the first fc.bias"):
        import_weights("inception_v3", broken, format="timm")


def test_many_misfits_are_counted_and_the_first_are_named():
    given = {name: array for name, array in TIMM.items() if not name.startswith("Mixed_7")}
    with pytest.raises(UserError, match="entries do not fit") as error:
        import_weights("inception_v3", given, format="timm")
    lines = str(error.value).splitlines()
    assert len(lines) == 22 and lines[-1].strip().startswith("and ") and lines[-1].endswith(" more")


def test_the_number_of_features_is_that_of_each_classifier():
    for (format, network), described in names.NETWORKS.items():
        given, table = peer(format, network), described.table()
        kernel = given[layout.head_names(layout.FORMATS[format], table)[0]]
        assert described.features == (kernel.shape[0] if format == "keras" else kernel.shape[1])


# The command line


@pytest.fixture(scope="module")
def keras_model(tmp_path_factory):
    """A Keras Sequential of Rescaling, InceptionV3 for 150 pixels, pooling and a dense layer, as .h5."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path_factory.mktemp("keras") / "pets.h5"
    base = {"class_name": "Functional", "config": {"layers": [input_layer(150)]}}
    layers = [input_layer(150), layer("Rescaling", scale=1 / 255, offset=0.0), base, layer("Dense", units=3)]
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
        for name, array in KERAS.items():  # without values, which take no room
            file.create_dataset(f"model_weights/inception_v3/{name}:0", array.shape, np.float32)
        for name, array in dense("dense", 2048, 3, peer="keras").items():
            file.create_dataset(f"model_weights/dense/sequential/{name}:0", data=array)
    return path


def layer(kind, **values):
    return {"class_name": kind, "config": values}


def input_layer(size):
    return layer("InputLayer", batch_shape=[None, size, size, 3])


def run(capfd, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_a_fine_tuned_keras_model_becomes_a_checkpoint(keras_model, tmp_path, capfd):
    (tmp_path / "names.txt").write_text("fox\ncat\ndog\n")
    arguments = ["--model", "inception_v3", "--format", "keras", "--class-names", tmp_path / "names.txt"]
    code, out, err = run(capfd, "import", keras_model, tmp_path / "pets", *arguments)
    assert code == 0, err
    assert all(words in out for words in ("inception_v3 with 3 classes", " 150 pixels", "'fox', 'cat', 'dog'"))
    _, variables, preprocessing = load_checkpoint(tmp_path / "pets")
    assert preprocessing.class_names == ("fox", "cat", "dog")
    assert (preprocessing.mean, preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)
    assert np.all(variables["params"]["classifier"]["kernel"] == 1)


def test_import_says_which_of_our_networks_a_peers_name_became(tmp_path, monkeypatch, capfd):
    small = create_model("inception_resnet_v2_slim", num_classes=3)
    monkeypatch.setattr("inception_jax.weights.importer.import_checkpoint", lambda *a, **k: (small, Preprocessing()))
    code, out, _ = run(capfd, "import", "a.safetensors", "v2", "--model", "inception_resnet_v2")
    assert code == 0 and "inception_resnet_v2_slim (timm's inception_resnet_v2) with 3 classes" in out
    assert "--init-from v2 --model.name inception_resnet_v2_slim" in out


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("pets.h5", "--model inception_v3 --format keras`"),
        ("v4.safetensors", "--model inception_v4`"),
        ("broken.safetensors", "--model NAME`"),
        ("network.onnx", None),
    ],
)
def test_a_file_of_weights_in_place_of_a_checkpoint_names_the_import(file, command, keras_model, tmp_path, capfd):
    path = tmp_path / file
    if file == "pets.h5":
        shutil.copy(keras_model, path)
    elif file == "v4.safetensors":
        save_file = pytest.importorskip("safetensors.numpy").save_file
        save_file({name: np.zeros(1, np.float32) for name in peer("timm", "inception_v4")}, path)
    else:
        path.write_bytes(b"?")
    for verb in (
        ["predict", path, "cat.jpg"],
        ["evaluate", path, "--data", "digits"],
        ["export", path, tmp_path / "out", "--format", "orbax"],
        ["train", "digits", "--run", "inception_v4", "--workdir", tmp_path / "run", "--init-from", path],
    ):
        code, _, err = run(capfd, *verb)
        assert code == 2 and str(path) in err
        expected = (
            f"`inception-jax import {path} {path.stem} {command}" if command else "is a file and not a checkpoint"
        )
        assert expected in err
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({"label_names": ["fox", "cat", "dog"]}, ("fox", "cat", "dog")),
        ({"label_names": {"0": "fox", "2": "dog"}}, ("fox", "class 1", "dog")),
        ({"label_names": ["fox", "cat"]}, "config.json has 2 label_names, the network 3"),
        ({"label_names": "pets"}, "config.json has no list of label_names"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "config.json .*timm"),
        ({"pretrained_cfg": {"input_size": 299}}, "config.json .*timm"),
        ({"pretrained_cfg": {"crop_pct": None, "input_size": [3, 100, 100]}}, ()),
        ({"architecture": "inception_v3", "input_size": [3, 100, 100]}, ()),  # as early files are
        (["pets"], "config.json .*list"),
    ],
)
def test_timms_configuration_names_the_classes(configuration, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("inception_jax.weights.importer.import_weights", lambda *_, **__: (InceptionV3(3), {}))
    monkeypatch.setattr("inception_jax.weights.importer.saved_metadata", lambda path: {})
    saved = {}
    monkeypatch.setattr("inception_jax.weights.importer.save_checkpoint", lambda out, *parts: saved.update(parts=parts))
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    (tmp_path / "model.safetensors").touch()
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            import_checkpoint(str(tmp_path), tmp_path / "out", "inception_v3", format="timm")
        assert not saved
        return
    _, preprocessing = import_checkpoint(str(tmp_path), tmp_path / "out", "inception_v3", format="timm")
    assert preprocessing.class_names == expected and saved
    assert preprocessing.image_size == (299 if expected else 100)


def test_a_directory_without_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="model.safetensors"):
        import_checkpoint(str(tmp_path), tmp_path / "out", "inception_v3", format="timm")


# Extras


def test_a_missing_package_names_the_extra_that_installs_it():
    setup = (ROOT / "setup.py").read_text()
    for package, extra in extras.EXTRAS.items():
        assert f'"{extra}": [' in setup or f'"{extra}": WEIGHTS' in setup, extra
        assert f'"{package}' in setup, package
    with pytest.raises(UserError, match=r"a.onnx needs jax2onnx.*pip install 'inception_jax\[onnx\]'"):
        extras.load("jax2onnx.no_such_module", "a.onnx")


MEAN, VARIANCE = [10.0, 20.0, 30.0], [4.0, 9.0, 16.0]
NORMALIZED = {"mean": (10 / 255, 20 / 255, 30 / 255), "std": (2 / 255, 3 / 255, 4 / 255)}


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([layer("Normalization", name="norm", mean=MEAN, variance=VARIANCE)], NORMALIZED),
        ([layer("Normalization", name="norm", mean=None, variance=None)], NORMALIZED),
        ([layer("Rescaling", scale=2.0, offset=1.0), layer("Rescaling", scale=0.5, offset=-0.5)], {"mean": (0,) * 3}),
        (
            [layer("Rescaling", scale=1 / 255, offset=0.0), layer("Normalization", mean=0.5, variance=0.25)],
            {"mean": (0.5,) * 3, "std": (0.5,) * 3},
        ),
        ([layer("Normalization", name="other", mean=None, variance=None)], "other"),
        ([layer("Normalization", mean=0, variance=1, invert=True)], "inverted"),
        ([layer("Rescaling", scale=-1.0, offset=0.0)], "above 0"),
    ],
)
def test_the_scale_of_a_keras_models_images_is_taken_over_or_refused(tmp_path, layers, expected, numbered):
    h5py, path = pytest.importorskip("h5py"), tmp_path / "pets.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
        for number, (name, array) in enumerate((("mean", MEAN), ("variance", VARIANCE), ("count", 0))):
            if numbered:
                group = file.require_group("layers/normalization/vars")
                group.attrs["name"] = "norm"
                group.create_dataset(str(number), data=array)
            else:
                file.create_dataset(f"model_weights/norm/norm/{name}:0", data=array)
    assert files.read(path, "keras") == {}  # They are no head.
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            importer._keras_preprocessing(path)
        return
    found = importer._keras_preprocessing(path)
    assert all(found[field] == pytest.approx(values) for field, values in expected.items())
