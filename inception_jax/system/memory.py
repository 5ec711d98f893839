"""Memory of this process and of the machine, and errors of exhausted memory in one sentence."""

import contextlib
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from inception_jax.errors import UserError

_MEMINFO = Path("/proc/meminfo")
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def peak_megabytes() -> float:
    """Peak resident memory of this process, in 1,000,000 bytes."""
    # In KiB, but in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def machine_bytes() -> int:
    """Memory and swap of this machine, or the limit of the container that this process runs in, if that is lower."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError):
        lines = [line.split() for line in _MEMINFO.read_text().splitlines()]
        found = [1024 * sum(int(words[1]) for words in lines if words[0] in ("MemTotal:", "SwapTotal:"))]
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit.
            found.append(int(path.read_text()))
    return min(found)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or XLA could not allocate memory, on the host or on a device."""
    # By name, so that JAX need not be imported.
    from_xla = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return isinstance(error, MemoryError) or (
        from_xla and any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "Out of memory"))
    )


@contextlib.contextmanager
def explain_out_of_memory(sentence: Callable[[], str]) -> Iterator[None]:
    """Raises exhausted memory as a UserError with `sentence`, which is called only then."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(sentence()) from error
