"""The package installed by pip, from an sdist and its wheel, without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Files that pip needs of a checkout; copied, because building leaves build/ and egg-info behind.
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "requirements.txt", "README.md", "LICENSE")
SDIST = "import setuptools.build_meta as build; build.build_sdist('dist')"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def run(*command, cwd, **variables):
    # Without the checkout or anything else on PYTHONPATH.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from the sdist, so that a file missing there fails the tests."""
    copy = tmp_path_factory.mktemp("copy")
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    for name in ("inception_jax", "experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    run(sys.executable, "-c", SDIST, cwd=copy)
    (sdist,) = copy.glob("dist/*.tar.gz")
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "wheels", sdist, cwd=copy)
    return next(copy.glob("wheels/*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The bin directory of a new environment with the wheel and the dependencies of this environment."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    programs = environment / "bin"
    run(*PIP, "--python", programs / "python", "install", "--no-deps", "--no-index", wheel, cwd=environment)
    packages = next(environment.glob("lib/python*/site-packages"))
    # .pth files in these directories are not read, so that an editable installation there has no effect.
    dependencies = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in dependencies))
    file = run(programs / "python", "-c", "import inception_jax; print(inception_jax.__file__)", cwd=environment)
    assert Path(file.strip()).is_relative_to(packages)
    return programs


def test_the_wheel_has_the_experiments_types_and_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    recipes = {f"inception_jax/experiments/{path.name}" for path in (ROOT / "experiments").glob("*.py")}
    assert {name for name in names if "/experiments/" in name} == recipes
    assert "inception_jax/py.typed" in names and any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"inception_jax"}
    metadata = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata and "\n# inception_jax\n" in metadata


def test_the_command_prints_its_version_and_experiments(installed, tmp_path):
    command = installed / "inception-jax"
    version = run(command, "--version", cwd=tmp_path)
    assert version.startswith("inception_jax  0.") and "backend        cpu\n" in version
    listed = run(command, "experiments", cwd=tmp_path)
    assert [line.split()[0] for line in listed.splitlines()] == sorted(
        path.stem for path in (ROOT / "experiments").glob("*.py")
    )
    assert run(command, "experiments", "digits", cwd=tmp_path) == (ROOT / "experiments" / "digits.py").read_text()


@pytest.mark.slow
def test_a_packaged_experiment_trains_in_an_empty_directory(installed, tmp_path):
    small = "--model.width 0.05 --model.depths 1 1 1 --train.batch-size 8 --train.steps 2 --evaluation.batch-size 128"
    options = ["--run", "inception_resnet_v1", "--workdir", "runs/v1", *small.split()]
    run(installed / "inception-jax", "train", "digits", *options, cwd=tmp_path)
    assert (tmp_path / "runs" / "v1" / "metrics.jsonl").exists() and list(tmp_path.iterdir()) == [tmp_path / "runs"]
