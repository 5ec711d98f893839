"""Four devices on the CPU, so that what is parallel is tested as such."""

import gc
import os
import signal

# Most of the suite is compiling, which takes LLVM two thirds of the time when it need not optimise.
QUICK = "--xla_backend_optimization_level=0"
# Seconds after which a child process is taken to hang. No test measures time: a loaded machine is to pass, too.
PATIENCE = 240
# What the command line sets, so that a test and the commands that it starts compute the same; but convolutions stay
# with YNNPACK, since in float64 they are several times slower without.
FLAGS = "--xla_disable_hlo_passes=cse_barrier_expander --xla_cpu_experimental_ynn_fusion_type=+individual_convolution"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4 {QUICK} {FLAGS}"
os.environ["JAX_PLATFORMS"] = "cpu"
# A second run of the suite need not compile again.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", "jax")
)
# Started in the background by a shell, the suite would have its children ignore Ctrl-C, which some are sent.
signal.signal(signal.SIGINT, signal.default_int_handler)
# As the command line has it: tracing makes millions of objects that stay.
gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items):
    # Files with slow tests first: one that comes last keeps one process at work when the other has nothing left to do.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
