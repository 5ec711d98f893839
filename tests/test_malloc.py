"""Freed memory is kept; the user's own settings are left alone."""

import ctypes
import os
import subprocess
import sys

import pytest

from inception_jax.system import malloc

# Page faults of the second of two allocations of 64 MiB.
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

# The same for a program that XLA runs; a trivial one would be run inline.
XLA_FAULTS = """
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
# The median: the first run maps everything, and so does about one in a hundred.
print(sorted(mapped)[4])
"""

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc only")


def page_faults(script, first):
    # One device, because XLA runs parallel programs in threads of its own.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GLIBC_", "MALLOC_", "XLA_FLAGS"))}
    command = [sys.executable, "-c", script.format(first=first)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not done.stderr
    return int(done.stdout)


ALL = 2**26 // 2**21
"""Minimum number of pages of 64 MiB, if they are huge pages."""


def test_freed_memory_is_not_mapped_again():
    assert page_faults(FAULTS, "malloc.retain_freed_memory()") < ALL <= page_faults(FAULTS, "")


def test_memory_of_an_xla_program_is_not_mapped_again():
    assert page_faults(XLA_FAULTS, "steps.use_synchronous_cpu_dispatch()") < ALL <= page_faults(XLA_FAULTS, "")


@pytest.mark.parametrize(
    ("name", "value"), [("GLIBC_TUNABLES", "glibc.malloc.mmap_max=65536"), ("MALLOC_ARENA_MAX", "2")]
)
def test_a_users_settings_stay_as_they_are(monkeypatch, name, value):
    calls = []
    library = type("Library", (), {"mallopt": lambda self, *what: calls.append(what)})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library())
    monkeypatch.setattr(os, "environ", {})
    malloc.retain_freed_memory()
    assert calls == [(-4, 0), (-1, -1)]
    monkeypatch.setenv(name, value)
    malloc.retain_freed_memory()
    assert len(calls) == 2
