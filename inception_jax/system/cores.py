"""Number of available cores."""

import os


def available_cores() -> int:
    """Number of cores that this process may use; in a container or a batch job fewer than the machine has."""
    # macOS has no CPU affinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
