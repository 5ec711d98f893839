"""What a user names as output is never replaced without being told so: every verb that writes."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from inception_jax.cli import main
from inception_jax.evaluation import predictions
from inception_jax.evaluation.predictions import Images, Model, Predictions
from inception_jax.system.atomic import refuse_existing

GOLDEN = Path(__file__).parent / "golden" / "format_1.tar.xz"
SHOW = "data show digits --image-size 75 --rows 1 --columns 1 --out"

# The command, what it writes, and whether that is a directory with files of these names.
WRITES = [
    ("export exported v1.safetensors --format safetensors", "v1.safetensors"),
    ("export exported v1.stablehlo --format stablehlo", "v1.stablehlo"),
    ("export exported v1.stablehlo --format stablehlo", "v1.stablehlo.json"),
    ("import exported.safetensors out --model inception_resnet_v1 --format inception_jax", "out/checkpoint.json"),
    (f"{SHOW} crops.png", "crops.png"),
    ("evaluate a.npz --save-predictions b.npz", "b.npz"),
    ("evaluate a.npz --save-predictions a.npz", "a.npz"),
    ("evaluate a.npz --out results", "results/evaluation.json"),
    ("evaluate a.npz --out results", "results/evaluation.md"),
    ("compare finished --out pair", "pair/curves.svg"),
    ("compare finished --out pair --metrics loss", "pair/loss.png"),
    ("compare digits --workdir runs", "runs/comparison.md"),
]


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    root = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(root, filter="data")
    saved = Model(
        "v1", {"name": "inception_resnet_v1", "width": 1, "depths": None}, 1, "raw", "", 1, (), 1, 75, 1, "area"
    )
    chances = np.full((1, 2, 3), 1 / 3, np.float32)
    predictions.write(
        root / "format_1" / "a.npz",
        Predictions(Images("x", 2), (saved,), np.zeros(2, np.int32), np.array(["0", "1"]), chances),
    )
    return root / "format_1"


@pytest.fixture
def here(golden, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(golden, tmp_path / "here"))


def files():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(("command", "path"), WRITES)
def test_what_is_there_stays_and_overwrite_is_named(here, capfd, command, path):
    if path != "a.npz":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"precious")
    before = files()
    assert main(command.split()) == 2
    said = capfd.readouterr().err
    assert path.removesuffix("/checkpoint.json") in said and "--overwrite" in said and len(said.splitlines()) == 1
    assert files() == before


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("export finished exported --format orbax", "exported/checkpoint.json"),
        (
            "import exported.safetensors exported --model inception_resnet_v1 --format inception_jax",
            "exported/SHA256SUMS",
        ),
        (f"{SHOW} crops.png", "crops.png"),
        ("evaluate a.npz --out results --save-predictions b.npz", "results/evaluation.json"),
        ("compare finished --out pair", "pair/curves.svg"),
    ],
)
def test_overwrite_replaces_it(here, command, path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(b"precious")
    assert main([*command.split(), "--overwrite"]) == 0
    assert Path(path).read_bytes() != b"precious"


def test_a_directory_of_something_else_is_never_replaced(here, capfd):
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("precious")
    for command in (
        "export exported thesis --format orbax --overwrite",
        "import exported.safetensors thesis --model inception_resnet_v1 --format inception_jax --overwrite",
        "export exported half --format orbax --overwrite",
    ):
        before = files()
        assert main(command.split()) == 2 and "not an exported checkpoint" in capfd.readouterr().err
        assert files() == before


def test_a_comparison_of_the_same_runs_or_of_more_is_drawn_again(here, capfd):
    for command, code in (("finished", 0), ("finished half", 0), ("./finished ../here/half", 0), ("half", 2)):
        assert main(["compare", *command.split(), "--out", "pair"]) == code, capfd.readouterr().err
    assert "pair" in capfd.readouterr().err


def test_a_link_to_nothing_is_there(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="link exists"):
        refuse_existing(tmp_path / "link", overwrite=False)
    refuse_existing(tmp_path / "link", overwrite=True)
    refuse_existing(tmp_path / "free", overwrite=False)
