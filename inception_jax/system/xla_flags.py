"""The compiler's flags, all of them: what is set for which devices, why, and how a user overrides it. No jax.

XLA reads XLA_FLAGS, and libtpu LIBTPU_INIT_ARGS, once, when the first device is opened; both end the process at a flag
that they do not know. So a flag is added only where every library that will read it has the flag's name in it, and only
for devices that this installation can open. A flag that the user has set, to whatever value, is left as it is.
"""

import importlib.util
import mmap
import os
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path

from inception_jax.system import malloc

CPU = {
    # XLA gives convolutions to YNNPACK, which runs those of large maps, 1x1 ones and gradients at a third to two thirds
    # of Eigen's rate in float32: without it Inception-v4 classifies 1.6 times as fast (docs/performance.md); in
    # float64, which Eigen is not asked for, they are several times slower with it, so the tests do not set it.
    "xla_cpu_experimental_ynn_fusion_type": "-individual_convolution",
    # Keeps optimization barriers to the end. Without them XLA adds up the residuals of all blocks before in each block
    # again (the released Inception-ResNet-v2 takes 1.2 times as long) and undoes what `train.remat` asks for.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}

# What a library must hold, too, to know the value: XLA ends the process at one that it does not.
_VALUES = {"xla_cpu_experimental_ynn_fusion_type": b"_INDIVIDUAL_CONVOLUTION"}

# Not measured by us: no GPU was at hand.
CUDA = {
    # Starts the all-reduce of gradients while others are still computed. Off by default; JAX's GPU performance tips and
    # NVIDIA's images for JAX set it.
    "xla_gpu_enable_latency_hiding_scheduler": "true",
}

# Not measured by us: no TPU was at hand.
TPU = {
    # All-reduces gradients while the layers before are still computed, also where they differ in size, as an Inception
    # network's do. Off by default; the scripts of MaxText set both.
    "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
    "xla_tpu_data_parallel_opt_different_sized_ops": "true",
}


def set_flags() -> None:
    """Adds our flags to the environment; leaves it alone once JAX has been imported, which may have read it.

    On a CPU it has the C library keep freed memory, too (malloc.py). The command line calls it; a program of its own
    does so before its first `import jax`.
    """
    if "jax" in sys.modules:
        return
    xla, cuda, tpu = _libraries("jaxlib"), _libraries("jax_plugins", "xla_cuda*/"), _libraries("libtpu")
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not (cuda or tpu):
        # Not where a card would read them, too.
        add(os.environ, "XLA_FLAGS", CPU, xla)
        malloc.retain_freed_memory()
    elif cuda:
        # Both read XLA_FLAGS.
        add(os.environ, "XLA_FLAGS", CUDA, [*xla, *cuda])
    add(os.environ, "LIBTPU_INIT_ARGS", TPU, tpu)


def add(
    environment: MutableMapping[str, str], variable: str, flags: Mapping[str, str], readers: Sequence[Path]
) -> None:
    """Adds to a variable of `environment` those of `flags` that all `readers` know and that it does not have.

    Args:
      environment: changed in place.
      variable: of the form "--flag=value --flag=value".
      flags: values by the flags' names.
      readers: the shared libraries that read the variable; without any, nothing is added.
    """
    given = environment.get(variable, "").split()
    if given and not given[0].startswith("-"):
        return  # The name of a file with flags, which XLA takes too.
    ours = set(flags) - {flag.lstrip("-").partition("=")[0] for flag in given}
    for reader in readers:
        ours &= _known(reader, ours)
    added = [f"--{name}={value}" for name, value in flags.items() if name in ours and readers]
    if added:
        environment[variable] = " ".join([*given, *added])


def _known(library: Path, names: Iterable[str]) -> set[str]:
    """The subset of the names that a library contains as strings: takes a few milliseconds for one that does."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {
            name
            for name in names
            if content.find(b"\0" + name.encode() + b"\0") >= 0 and content.find(_VALUES.get(name, b"")) >= 0
        }


def _libraries(package: str, folder: str = "") -> list[Path]:
    """The largest shared library in each place where an installed package lies, which is not imported."""
    spec = importlib.util.find_spec(package)
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or []]
    found = [sorted(place.glob(f"{folder}*.so"), key=lambda path: path.stat().st_size) for place in places]
    return [libraries[-1] for libraries in found if libraries]
