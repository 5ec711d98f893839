"""Freed memory is kept, and nobody's own settings are changed."""

import ctypes
import os
import subprocess
import sys

import pytest

from inception_jax.system import malloc

# 64 MiB, twice: how many pages the second had to be given.
FAULTS = """
import ctypes, resource
from inception_jax.system import malloc
{first}
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
def use():
    at = ctypes.c_void_p(c.malloc(ctypes.c_size_t(2**26)))
    ctypes.memset(at, 1, 2**26)
    c.free(at)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

# The same of what a program needs that XLA runs; a trivial one it runs in line at any time.
OF_XLA = """
import resource
from inception_jax.system import xla_flags
xla_flags.set_flags()
import jax
from inception_jax import steps
{first}
step = jax.jit(lambda x: jax.numpy.flip(jax.numpy.cumsum(jax.numpy.full(2**24, x))).sum())
mapped = []
for _ in range(9):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(1.0))
    mapped.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# The median: the first run maps all, and about one in a hundred, with either JAX, maps anew.
print(sorted(mapped)[4])
"""

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc only")


def pages(script, first):
    # One device: XLA runs what is parallel in threads of its own.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GLIBC_", "MALLOC_", "XLA_FLAGS"))}
    command = [sys.executable, "-c", script.format(first=first)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not done.stderr
    return int(done.stdout)


ALL = 2**26 // 2**21
"""How many pages 64 MiB have at least, when they are huge ones."""


def test_memory_that_was_freed_need_not_be_mapped_again():
    assert pages(FAULTS, "malloc.retain_freed_memory()") < ALL <= pages(FAULTS, "")


def test_what_xla_allocates_for_a_program_need_not_be_mapped_again():
    assert pages(OF_XLA, "steps.use_synchronous_cpu_dispatch()") < ALL <= pages(OF_XLA, "")


@pytest.mark.parametrize(
    ("name", "value"), [("GLIBC_TUNABLES", "glibc.malloc.mmap_max=65536"), ("MALLOC_ARENA_MAX", "2")]
)
def test_a_users_settings_stay_as_they_are(monkeypatch, name, value):
    asked = []
    library = type("Library", (), {"mallopt": lambda self, *what: asked.append(what)})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library())
    monkeypatch.setattr(os, "environ", {})
    malloc.retain_freed_memory()
    assert asked == [(-4, 0), (-1, -1)]
    monkeypatch.setenv(name, value)
    malloc.retain_freed_memory()
    assert len(asked) == 2
