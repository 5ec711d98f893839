"""What is said on Windows, where the package does not run, and what --version says of a machine."""

import subprocess
import sys
from importlib import metadata

import jax
import pytest

from inception_jax.cli import main
from inception_jax.system import versions

REASON = "inception_jax does not run on Windows itself; use WSL2 there, or Linux or macOS.\n"


def python_on_windows(code, *arguments):
    """A Python that takes itself to be on Windows once it has started."""
    code = f"import sys; sys.platform = 'win32'; {code}"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("module", ["inception_jax", "inception_jax.config", "inception_jax.data"])
def test_an_import_on_windows_says_where_it_works_instead(module):
    done = python_on_windows(f"import {module}")
    assert done.returncode == 1 and done.stderr.endswith(f"\nImportError: {REASON}")


@pytest.mark.parametrize(
    "started_as",
    [
        r"sys.argv[0] = 'C:/venv/Scripts/inception-jax.exe'; from inception_jax.cli import main",
        "sys.orig_argv = ['python', '-m', 'inception_jax']; import inception_jax.__main__",
    ],
)
def test_a_command_on_windows_is_a_mistake_of_one_line(started_as):
    done = python_on_windows(started_as, "--help")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"inception-jax: {REASON}")


def test_version_is_a_few_aligned_lines(capfd):
    assert main(["--version"]) == 0
    out, _ = capfd.readouterr()
    said = {line[:14].rstrip(): line[14:] for line in out.splitlines()}
    assert said["inception_jax"] == f" {metadata.version('inception_jax')}" and said["JAX"] == f" {jax.__version__}"
    assert said["backend"] == " cpu" and said["devices"] == " 4 x cpu"
    assert set(said) == {"inception_jax", "JAX", "jaxlib", "Flax", "Python", "platform", "backend", "devices"}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("JAX_PLATFORMS", "abacus", "Unable to initialize backend 'abacus'"),
        ("XLA_FLAGS", "--xla_abacus=1", "Unknown flag in XLA_FLAGS: --xla_abacus=1"),
    ],
)
def test_version_says_that_no_device_can_be_opened(capfd, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    assert main(["--version"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("inception_jax ") and lines[-2] == "backend        none"
    assert lines[-1].startswith("devices        cannot be opened: ") and message in lines[-1]


def test_version_does_not_wait_for_devices_that_never_answer(monkeypatch):
    monkeypatch.setattr(versions, "PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(versions, "SECONDS", 1)
    assert list(versions.lines())[-1] == "devices        cannot be opened: no answer within 1 seconds"
