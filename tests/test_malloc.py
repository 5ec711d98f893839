"""Freed memory is kept, and nobody's own settings are changed."""

import ctypes
import os
import subprocess
import sys

import pytest

from inception_jax import malloc

# 64 MiB, twice, in a thread of its own, as XLA's are: how many pages the second had to be given.
FAULTS = """
import ctypes, resource, sys, threading
from inception_jax import malloc
{first}
c = ctypes.CDLL(None)
c.malloc.restype = ctypes.c_void_p
def use():
    at = ctypes.c_void_p(c.malloc(ctypes.c_size_t(2**26)))
    ctypes.memset(at, 1, 2**26)
    c.free(at)
def twice():
    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=twice)
thread.start()
thread.join()
"""

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc only")


def pages(first, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLIBC_", "MALLOC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(first=first)], env=kept | environment, capture_output=True, text=True
    )
    assert not done.stderr
    return int(done.stdout)


def test_memory_that_was_freed_need_not_be_mapped_again():
    assert pages("malloc.keep_freed()") < 100
    assert pages("") > 2**26 // 2**21  # With huge pages as few as this.


@pytest.mark.parametrize(
    ("name", "value"), [("GLIBC_TUNABLES", "glibc.malloc.mmap_max=65536"), ("MALLOC_ARENA_MAX", "2")]
)
def test_a_users_settings_stay_as_they_are(monkeypatch, name, value):
    asked = []
    library = type("Library", (), {"mallopt": lambda self, *what: asked.append(what)})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library())
    monkeypatch.setattr(os, "environ", {})
    malloc.keep_freed()
    assert asked == [(-8, 1), (-4, 0), (-1, -1)]
    monkeypatch.setenv(name, value)
    malloc.keep_freed()
    assert len(asked) == 3
