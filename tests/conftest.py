"""Four devices on the CPU, so that what is parallel is tested as such."""

import os
import signal

from inception_jax import xla_flags

# Most of the suite is compiling, which takes LLVM two thirds of the time when it need not optimise.
QUICK = "--xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4 {QUICK}"
os.environ["JAX_PLATFORMS"] = "cpu"
# What the command line sets.
xla_flags.set_flags()
# A second run of the suite need not compile again.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", "jax")
)
# Started in the background by a shell, the suite would have its children ignore Ctrl-C, which some are sent.
signal.signal(signal.SIGINT, signal.default_int_handler)
