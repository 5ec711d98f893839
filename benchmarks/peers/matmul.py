"""Large matrix products with JAX and with PyTorch, as the limit."""

from collections.abc import Callable
from typing import Any

from inception_jax.system.memory import peak_megabytes
from peers.cases import Case
from peers.step import Contestant

SIDE = {"cpu": 4096, "cuda": 8192}
"""Rows and columns, large enough that larger products are no faster."""

Parts = tuple[Callable[[], Any], Callable[[Any], float], str]


def prepare(library: str, case: Case) -> Contestant:
    """Multiply square matrices of the case's dtype; the unit is an operation, two per multiply-add."""
    side = SIDE[case.device]
    launch, wait, device = (with_jax if library == "jax" else with_pytorch)(side, case)
    return Contestant(launch, wait, units=2.0 * side**3, device=device, peak_megabytes=peak_megabytes)


def with_jax(side: int, case: Case) -> Parts:
    """Functions that launch a product and wait for it, and the name of the device."""
    import jax

    left, right = (jax.random.normal(jax.random.key(seed), (side, side), case.dtype) for seed in (0, 1))

    @jax.jit
    def multiply(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        product = a @ b
        return product, product[0, 0]  # Returned, so that XLA computes all of it.

    return lambda: multiply(left, right), lambda result: float(result[1]), jax.devices()[0].device_kind


def with_pytorch(side: int, case: Case) -> Parts:
    """The same with PyTorch."""
    import torch

    from peers import on_pytorch

    on_pytorch.configure(case.device)
    left, right = (torch.randn(side, side, device=case.device).to(getattr(torch, case.dtype)) for _ in range(2))
    return lambda: on_pytorch.start_copy((left @ right)[0, 0]), on_pytorch.wait, on_pytorch.device_name(case.device)
