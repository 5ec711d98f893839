"""Peak memory of this process."""

import resource
import sys


def peak_megabytes() -> float:
    """Peak resident memory of this process, in 1,000,000 bytes."""
    # In KiB, but in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
