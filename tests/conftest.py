"""Configuration of the suite: four CPU devices, quick compilation, a compilation cache."""

import gc
import os
import signal

import pytest

# The suite mostly compiles, which takes two thirds of the time without LLVM's optimisations.
QUICK = "--xla_backend_optimization_level=0"
# Seconds after which a subprocess is considered hung. No test measures time, so that a loaded machine passes.
PATIENCE = 240
# The flags of the command line, so that a test and its subprocesses compute the same; but with YNNPACK's convolutions,
# because Eigen's are several times slower in float64.
FLAGS = "--xla_disable_hlo_passes=cse_barrier_expander --xla_cpu_experimental_ynn_fusion_type=+individual_convolution"
# XLA aborts where a device waits longer than 40 seconds for the others, as a loaded machine makes it.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=500"
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4 {QUICK} {PATIENT} {FLAGS}"
)
os.environ["JAX_PLATFORMS"] = "cpu"
# Spares a second run of the suite the compilation.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", "jax")
)
# Small programs too, which subprocesses and other modules compile again.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# A shell starts background jobs with SIGINT ignored, and subprocesses inherit that; some tests send SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
# As in the command line: tracing creates millions of long-lived objects.
gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def _without_programs_of_other_modules():
    """Unloads what a module compiled: programs map memory by the thousand, and Linux allows a process 65,530 maps."""
    yield
    import jax  # Here, so that it reads the variables set above.

    jax.clear_caches()
    gc.collect()


def pytest_collection_modifyitems(items):
    # Files with slow tests first; at the end they would leave one worker idle.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
