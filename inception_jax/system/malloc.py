"""The C library's allocator, told to keep the memory that it is given back. No jax.

XLA asks for a step's memory anew each time, and glibc gives so much back to the system as soon as it is free: on a CPU
an eighth of a step's time went into mapping and clearing the same pages again (docs/performance.md).
"""

import ctypes
import os

_SETTINGS = {
    -4: 0,  # M_MMAP_MAX: nothing mapped apart, which would be unmapped when it is freed.
    -1: -1,  # M_TRIM_THRESHOLD: the heap never shrinks.
}
"""Of mallopt, by the numbers that malloc.h gives them."""


def retain_freed_memory() -> None:
    """Has what the main thread frees kept for what is asked for next, for as long as the process lives.

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
