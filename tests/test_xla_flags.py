"""Compiler flags: only those that the libraries know, and never against the user's."""

import os
import subprocess
import sys

import pytest

from inception_jax.system import xla_flags

OURS = {"xla_first": "true", "xla_second": "2"}


def library(folder, name, *flags):
    path = folder / name
    path.write_bytes(b"\x7fELF\0" + b"\0".join(flag.encode() for flag in flags) + b"\0")
    return path


def added(before, readers, flags=OURS):
    environment = {} if before is None else {"XLA_FLAGS": before}
    xla_flags.add(environment, "XLA_FLAGS", flags, readers)
    return environment.get("XLA_FLAGS")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "--xla_first=true --xla_second=2"),
        ("", "--xla_first=true --xla_second=2"),
        ("--xla_third=3", "--xla_third=3 --xla_first=true --xla_second=2"),
        ("--xla_second=7", "--xla_second=7 --xla_first=true"),
        ("--xla_second --xla_first=false", "--xla_second --xla_first=false"),
        ("flags.txt", "flags.txt"),
    ],
)
def test_a_users_flags_stay_as_they_are(tmp_path, before, after):
    assert added(before, [library(tmp_path, "a.so", *OURS)]) == after


def test_a_flag_unknown_to_one_library_is_left_out(tmp_path):
    both, second = library(tmp_path, "a.so", *OURS), library(tmp_path, "b.so", "xla_first_of_all", "xla_second")
    assert added(None, [both, second]) == "--xla_second=2"
    assert added("--xla_third=3", [second], {"xla_first": "true"}) == "--xla_third=3"
    assert added(None, []) is None


def test_a_flag_whose_value_is_unknown_to_a_library_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(xla_flags, "_VALUES", {"xla_second": b"_A_VALUE"})
    old, new = library(tmp_path, "a.so", "xla_second"), library(tmp_path, "b.so", "xla_second", "ENUM_A_VALUE")
    assert added(None, [old], {"xla_second": "A_VALUE"}) is None
    assert added(None, [new], {"xla_second": "A_VALUE"}) == "--xla_second=A_VALUE"


# jaxlib's CPU library knows CUDA's flags, too; neither CUDA's plugin nor libtpu is installed here.
def test_flags_are_set_for_the_devices_that_can_be_opened(tmp_path, monkeypatch):
    xla = library(tmp_path, "jaxlib.so", "xla_cpu", "xla_cuda")
    cuda = library(tmp_path, "plugin.so", "xla_cuda", "xla_cpu")
    tpu = library(tmp_path, "libtpu.so", "xla_tpu")
    for name in ("cpu", "cuda", "tpu"):
        monkeypatch.setattr(xla_flags, name.upper(), {f"xla_{name}": "1"})
    monkeypatch.delitem(sys.modules, "jax", raising=False)

    def flags(environment=(), **installed):
        monkeypatch.setattr(xla_flags, "_libraries", lambda package, folder="": installed.get(package, []))
        monkeypatch.setattr(os, "environ", dict(environment))
        xla_flags.set_flags()
        return os.environ

    assert flags(jaxlib=[xla]) == {"XLA_FLAGS": "--xla_cpu=1"}
    assert flags(jaxlib=[xla], jax_plugins=[cuda]) == {"XLA_FLAGS": "--xla_cuda=1"}
    assert flags(jaxlib=[xla], libtpu=[tpu]) == {"LIBTPU_INIT_ARGS": "--xla_tpu=1"}
    platforms = {"JAX_PLATFORMS": "cpu"}
    assert flags(platforms, jaxlib=[xla], jax_plugins=[cuda]) == {**platforms, "XLA_FLAGS": "--xla_cpu=1"}
    monkeypatch.setitem(sys.modules, "jax", None)
    assert flags(jaxlib=[xla], jax_plugins=[cuda], libtpu=[tpu]) == {}


def test_the_installed_xla_knows_our_flags_and_starts_with_them():
    (xla,) = xla_flags._libraries("jaxlib")
    environment = {"XLA_FLAGS": ""}
    xla_flags.add(environment, "XLA_FLAGS", {**xla_flags.CPU, **xla_flags.CUDA, "xla_not_a_flag": "1"}, [xla])
    expected = [f"--{name}={value}" for name, value in {**xla_flags.CPU, **xla_flags.CUDA}.items()]
    assert environment["XLA_FLAGS"].split() == expected
    script = "import jax; print(jax.jit(lambda x: x + 1)(41))"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.stdout == "42\n", done.stderr
