"""Settings of glibc's allocator that make it keep freed memory. No jax.

XLA asks for a step's memory anew each time, and glibc gives so much back to the system as soon as it is free: on a CPU
an eighth of a step's time went into mapping and clearing the same pages again (docs/performance.md).
"""

import ctypes
import os

_SETTINGS = {
    -4: 0,  # M_MMAP_MAX: nothing mapped apart, which would be unmapped when it is freed.
    -1: -1,  # M_TRIM_THRESHOLD: the heap never shrinks.
}
"""Values for mallopt, keyed by malloc.h's numbers of the parameters."""


def retain_freed_memory() -> None:
    """Makes glibc keep memory freed by the main thread for later allocations, as long as the process lives.

    Other threads have heaps of their own, which cannot hold more than 64 MB: what exceeds that is mapped each time. One
    heap for all, which glibc can be told to have, makes them wait for one another: compiling took 1.3 times as long.

    Only glibc can be told so; with another library, and where the user has settings for malloc, nothing changes.
    """
    given = any(name.startswith("MALLOC_") for name in os.environ)
    if given or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or os.name != "posix":
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in _SETTINGS.items():
            mallopt(parameter, value)
