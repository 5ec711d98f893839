"""Settings of glibc's allocator that make it keep freed memory. No jax.

XLA allocates a step's memory anew each time, and glibc returns so much to the system as soon as it is freed: on a CPU
an eighth of a step's time went into mapping and clearing the same pages again (docs/performance.md).
"""

import ctypes
import os

_SETTINGS = {
    -4: 0,  # M_MMAP_MAX: no separate mappings, which would be unmapped when freed.
    -1: -1,  # M_TRIM_THRESHOLD: the heap never shrinks.
}
"""Values for mallopt, keyed by the parameter's number in malloc.h."""


def retain_freed_memory() -> None:
    """Makes glibc keep memory freed by the main thread for later allocations, for the life of the process.

    Other threads have their own heaps of at most 64 MB, and larger blocks of theirs are mapped each time. A single heap
    (M_ARENA_MAX) makes threads wait for each other: compilation took 1.3 times as long.

    Does nothing with another C library, or if the user has set malloc's parameters.
    """
    given = any(name.startswith("MALLOC_") for name in os.environ)
    if given or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or os.name != "posix":
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in _SETTINGS.items():
            mallopt(parameter, value)
