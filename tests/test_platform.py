"""The error on Windows, where the package does not run, and the output of --version."""

import re
import subprocess
import sys
from importlib import metadata

import jax
import pytest

from inception_jax.cli import main
from inception_jax.system import versions


def python_on_windows(code, *arguments):
    """Runs code in a Python that believes to be on Windows."""
    code = f"import sys; sys.platform = 'win32'; {code}"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("module", ["inception_jax", "inception_jax.config", "inception_jax.data"])
def test_an_import_on_windows_fails_with_the_reason(module):
    done = python_on_windows(f"import {module}")
    assert done.returncode == 1 and re.search(r"\nImportError: .*Windows.*WSL2.*\n$", done.stderr)


@pytest.mark.parametrize(
    "started_as",
    [
        r"sys.argv[0] = 'C:/venv/Scripts/inception-jax.exe'; from inception_jax.cli import main",
        "sys.orig_argv = ['python', '-m', 'inception_jax']; import inception_jax.__main__",
    ],
)
def test_a_command_on_windows_exits_2_with_one_line(started_as):
    done = python_on_windows(started_as, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"inception-jax: .*WSL2.*\n", done.stderr)


def test_version_prints_aligned_lines(capfd):
    assert main(["--version"]) == 0
    out, _ = capfd.readouterr()
    values = {line[:14].rstrip(): line[15:] for line in out.splitlines()}
    assert values["inception_jax"] == metadata.version("inception_jax") and values["JAX"] == jax.__version__
    assert values["backend"] == "cpu" and values["devices"] == "4 x cpu"
    assert set(values) == {"inception_jax", "JAX", "jaxlib", "Flax", "Python", "platform", "backend", "devices"}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("JAX_PLATFORMS", "abacus", "abacus"),
        ("XLA_FLAGS", "--xla_abacus=1", "--xla_abacus=1"),
    ],
)
def test_version_prints_why_no_device_can_be_opened(capfd, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    assert main(["--version"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("inception_jax ") and lines[-2] == "backend        none"
    assert lines[-1].startswith("devices ") and message in lines[-1]


def test_version_does_not_wait_for_devices_that_hang(monkeypatch):
    monkeypatch.setattr(versions, "PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(versions, "SECONDS", 1)
    assert "within 1 seconds" in list(versions.lines())[-1]
