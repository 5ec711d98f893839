"""How many threads images can keep busy."""

import os


def available_cores() -> int:
    """Cores that this process may use; in a container or a batch job they are fewer than the machine has."""
    # macOS does not say.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
