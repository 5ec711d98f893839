"""Versions, platform and devices, for bug reports."""

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import metadata

PACKAGES = {"inception_jax": "inception_jax", "JAX": "jax", "jaxlib": "jaxlib", "Flax": "flax"}
PROBE = "import jax; print(jax.default_backend(), *(device.device_kind for device in jax.local_devices()), sep='\\n')"
SECONDS = 120


def lines() -> Iterator[str]:
    """Yields aligned lines; the devices come last, because opening them may take long."""
    for name, package in PACKAGES.items():
        yield _line(name, _version(package))
    yield _line("Python", platform.python_version())
    yield _line("platform", platform.platform())
    backend, devices = _devices()
    yield _line("backend", backend)
    yield _line("devices", devices)


def _line(name: str, value: str) -> str:
    return f"{name:<14} {value}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> tuple[str, str]:
    # In a separate process: an unknown XLA flag aborts it, and a driver may crash or hang it.
    try:
        probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "none", f"cannot be opened: no answer within {SECONDS} seconds"
    if probe.returncode:
        messages = [line.strip() for line in probe.stderr.splitlines() if line.strip()]
        wanted = f" (JAX_PLATFORMS is {os.environ['JAX_PLATFORMS']})" if os.environ.get("JAX_PLATFORMS") else ""
        return "none", f"cannot be opened: {messages[-1] if messages else f'exit code {probe.returncode}'}{wanted}"
    print(probe.stderr, end="", file=sys.stderr)  # Such as a warning that a GPU is there but not JAX's plugin for it.
    backend, *kinds = probe.stdout.splitlines()
    return backend, ", ".join(f"{count} x {kind}" for kind, count in Counter(kinds).items())
