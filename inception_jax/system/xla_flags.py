"""Compiler flags set for each kind of device, with reasons. No jax.

XLA reads XLA_FLAGS, and libtpu LIBTPU_INIT_ARGS, once, when the first device is opened; both abort at an unknown flag.
So a flag is added only if every library that will read it contains the flag's name, and only for devices that this
installation can open. Flags that the user has set take precedence.
"""

import importlib.util
import mmap
import os
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path

from inception_jax.system import malloc

CPU = {
    # Convolutions by Eigen instead of YNNPACK. In float32 YNNPACK runs those of large maps, 1x1 ones and gradients at a
    # third to two thirds of Eigen's rate: without it Inception-v4 classifies 1.6 times as fast (docs/performance.md).
    # In float64 convolutions are several times slower with this flag, so the tests do not set it.
    "xla_cpu_experimental_ynn_fusion_type": "-individual_convolution",
    # Keeps optimization barriers to the end. Without them XLA sums the residuals of all earlier blocks again in every
    # block (the released Inception-ResNet-v2 takes 1.2 times as long) and undoes `train.remat`.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}

# String that a library must also contain to know the flag's value; XLA aborts at an unknown one.
_VALUES = {"xla_cpu_experimental_ynn_fusion_type": b"_INDIVIDUAL_CONVOLUTION"}

# Not measured: no GPU was available.
CUDA = {
    # Overlaps the all-reduce of gradients with the backward pass. Off by default; set by JAX's GPU performance tips and
    # NVIDIA's images for JAX.
    "xla_gpu_enable_latency_hiding_scheduler": "true",
}

# Not measured: no TPU was available.
TPU = {
    # Overlap the all-reduce of gradients with the backward pass, also for gradients of different sizes. Off by default;
    # set by the scripts of MaxText.
    "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
    "xla_tpu_data_parallel_opt_different_sized_ops": "true",
}


def set_flags() -> None:
    """Adds the flags to the environment and, on a CPU, makes malloc keep freed memory (malloc.py).

    Does nothing once JAX is imported. The command line calls this; other programs must do so before `import jax`.
    """
    if "jax" in sys.modules:
        return
    xla, cuda, tpu = _libraries("jaxlib"), _libraries("jax_plugins", "xla_cuda*/"), _libraries("libtpu")
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not (cuda or tpu):
        # Only here, because a GPU's plugin would read them, too.
        add(os.environ, "XLA_FLAGS", CPU, xla)
        malloc.retain_freed_memory()
    elif cuda:
        # Both libraries read XLA_FLAGS.
        add(os.environ, "XLA_FLAGS", CUDA, [*xla, *cuda])
    add(os.environ, "LIBTPU_INIT_ARGS", TPU, tpu)


def add(
    environment: MutableMapping[str, str], variable: str, flags: Mapping[str, str], readers: Sequence[Path]
) -> None:
    """Adds to a variable of `environment` the flags that it lacks and that all `readers` know.

    Args:
      environment: modified in place.
      variable: name of a variable of the form "--flag=value --flag=value".
      flags: values keyed by flag name.
      readers: shared libraries that read the variable; without any, nothing is added.
    """
    given = environment.get(variable, "").split()
    if given and not given[0].startswith("-"):
        return  # The name of a file with flags, which XLA also accepts.
    ours = set(flags) - {flag.lstrip("-").partition("=")[0] for flag in given}
    for reader in readers:
        ours &= _known(reader, ours)
    added = [f"--{name}={value}" for name, value in flags.items() if name in ours and readers]
    if added:
        environment[variable] = " ".join([*given, *added])


def _known(library: Path, names: Iterable[str]) -> set[str]:
    """The flags that a library knows: those whose names it contains as strings."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {
            name
            for name in names
            if content.find(b"\0" + name.encode() + b"\0") >= 0 and content.find(_VALUES.get(name, b"")) >= 0
        }


def _libraries(package: str, folder: str = "") -> list[Path]:
    """The largest shared library in each directory of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or []]
    found = [sorted(place.glob(f"{folder}*.so"), key=lambda path: path.stat().st_size) for place in places]
    return [libraries[-1] for libraries in found if libraries]
