"""The C library's allocator, told to keep the memory that it is given back. No jax.

XLA asks for a step's memory anew each time, and glibc gives so much back to the system as soon as it is free: on a CPU
a tenth of a step's time went into mapping and clearing the same pages again (docs/performance.md).
"""

import ctypes
import os

_SETTINGS = {
    -8: 1,  # M_ARENA_MAX: one heap, since a second one maps apart whatever exceeds its 64 MB.
    -4: 0,  # M_MMAP_MAX: nothing mapped apart, which would be unmapped when it is freed.
    -1: -1,  # M_TRIM_THRESHOLD: the heap never shrinks.
}
"""Of mallopt, by the numbers that malloc.h gives them."""


def keep_freed() -> None:
    """Has freed memory kept for what is asked for next, for as long as the process lives.

    Only glibc can be told so; with another library, and where the user has settings for malloc, nothing changes. Heaps
    that other threads have by now stay: call it before they start.
    """
    given = any(name.startswith("MALLOC_") for name in os.environ)
    if given or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or os.name != "posix":
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in _SETTINGS.items():
            mallopt(parameter, value)
