"""Tables of docs/scaling.md: cost of data parallelism on a pod, predicted and not measured.

    python benchmarks/scaling.py

Bytes and multiply-adds come from the networks' shapes (`jax.eval_shape`). Peaks and bandwidths are the constants below,
each with its source.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from inception_jax.errors import UserError
from inception_jax.models import create_model, list_models, summary
from inception_jax.models.initialize import variable_shapes

IMAGES = 32
"""Per-device batch size of the recipes."""
PEAK_FRACTION = 0.3
"""Fraction of the peak that the convolutions reach (docs/scaling.md)."""
IMAGES_PER_CORE = 700
"""Images per second that one host core reads, decodes and crops (r in docs/scaling.md)."""
LARGE_BATCH = 8192
"""Largest global batch for which the linear scaling rule held on ImageNet (Goyal et al., arXiv 1706.02677)."""
COUNTS = (8, 64, 256, 1024, 4096)
METRICS = 5
"""Metrics averaged with gradients and statistics in steps.train_step; the gradient norm is computed afterwards."""
FLOAT = 4
"""Bytes per number: parameters, gradients and statistics are float32, in bfloat16 training too."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device and its interconnect, as documented."""

    name: str
    peak: float
    """bfloat16 FLOP/s, dense."""
    few: float
    """Bytes/s that a device sends in an all-reduce of fewer than `threshold` devices."""
    many: float
    """Bytes/s from `threshold` devices on."""
    threshold: int
    largest: int
    """Number of devices of the largest system considered."""
    per_host: int
    """Number of devices of a host."""


CHIPS = (
    # Peak and 1.1 PB/s of all-reduce for 4,096 chips, 269 GB/s each: Cloud TPU documentation, "TPU v4". Six
    # links of 45 GB/s one way (the JAX authors' "How to Scale Your Model", on TPUs) are 270.
    Chip("TPU v4", 275e12, 135e9, 270e9, 64, 4096, 4),
    # Cloud TPU documentation, "TPU v5e": 400 GB/s per chip in both directions, 51.2 TB/s of all-reduce for 256 chips.
    Chip("TPU v5e", 197e12, 100e9, 200e9, 256, 256, 8),
    # Cloud TPU documentation, "TPU v5p": 1,200 GB/s per chip in both directions; jobs of up to 6,144 chips.
    Chip("TPU v5p", 459e12, 300e9, 600e9, 64, 4096, 4),
    # NVIDIA's figures for H100 SXM5: 989 TFLOP/s dense, 900 GB/s of NVLink in both directions. Between nodes eight
    # adapters of 400 Gb/s: "How to Scale Your Model", on GPUs, after NVIDIA's DGX SuperPOD reference architecture.
    Chip("H100", 989e12, 450e9, 8 * 50e9, 16, 4096, 8),
)


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of a network that matter to data parallelism."""

    name: str
    parameters: int
    statistics: int
    """Number of running means and variances of all BN layers."""
    norms: int
    """Number of BN layers."""
    multiply_adds: int
    """Multiply-adds of a forward pass per image, without the auxiliary head, which adds about 0.1 %."""

    @property
    def all_reduced(self) -> int:
        """Bytes that each device contributes to the all-reduces of a step."""
        return FLOAT * (self.parameters + self.statistics + METRICS)


@functools.cache
def size(name: str) -> Size:
    """Sizes of a network with 1,000 classes at 299 pixels, with an auxiliary head if it has one."""
    try:
        model = create_model(name, aux_head=True)
    except UserError:
        model = create_model(name)
    variables = variable_shapes(model)
    multiply_adds = sum(stage.multiply_adds for stage in summary.summarize(create_model(name)))
    statistics = variables["batch_stats"]
    count = summary.count_parameters
    return Size(
        name, count(variables["params"]), count(statistics), len(jax.tree.leaves(statistics)) // 2, multiply_adds
    )


def step_seconds(network: Size, chip: Chip, images: int = IMAGES) -> float:
    """Compute time of a step: forward, and twice that backward, with two FLOP per multiply-add."""
    return 3 * 2 * network.multiply_adds * images / (PEAK_FRACTION * chip.peak)


def all_reduce_seconds(network: Size, chip: Chip, devices: int) -> float:
    """Time of a ring all-reduce: a reduce-scatter followed by an all-gather."""
    bandwidth = chip.many if devices >= chip.threshold else chip.few
    return 2 * (devices - 1) / devices * network.all_reduced / bandwidth


def efficiencies(network: Size, chip: Chip, devices: int, images: int = IMAGES) -> tuple[float, float]:
    """Fraction of a step spent computing: (all-reduce after the backward pass, all-reduce overlapping with it)."""
    step, all_reduce = step_seconds(network, chip, images), all_reduce_seconds(network, chip, devices)
    # The backward pass, which produces the gradients, is the last two thirds of the step.
    exposed = max(0.0, all_reduce - step * 2 / 3)
    return step / (step + all_reduce), step / (step + exposed)


def cores(network: Size, chip: Chip) -> float:
    """Number of host cores that keep the devices of a host supplied with images."""
    return chip.per_host * IMAGES / step_seconds(network, chip) / IMAGES_PER_CORE


def size_row(network: Size) -> str:
    """Parameters, bytes and multiply-adds of a network."""
    cells = (
        f"`{network.name}`",
        f"{network.parameters:,}",
        f"{network.statistics:,}",
        f"{network.norms}",
        f"{network.all_reduced / 1e6:.1f}",
        f"{FLOAT * 4 * network.parameters / 1e6:.0f}",
        f"{network.multiply_adds / 1e9:.2f}",
        f"{6e-12 * network.multiply_adds * IMAGES:.2f}",
    )
    return row(cells)


def times_row(network: Size) -> str:
    """Compute and all-reduce time in ms of a network on the largest system of each chip."""
    times = [(step_seconds(network, c), all_reduce_seconds(network, c, c.largest)) for c in CHIPS]
    return row([f"`{network.name}`", *(f"{1e3 * step:.1f} + {1e3 * all_reduce:.2f}" for step, all_reduce in times)])


def efficiency_row(network: Size, chip: Chip, images_on: Callable[[int], int], counts: Iterable[int]) -> str:
    """Efficiency of a chip in percent by number of devices, without / with overlap."""
    cells = [chip.name]
    for devices in counts:
        without, overlapped = efficiencies(network, chip, devices, images_on(devices))
        cells.append(f"{100 * without:.0f} / {100 * overlapped:.0f}" if devices <= chip.largest else "")
    return row(cells)


def row(cells: Iterable[Any]) -> str:
    """Row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(header: Sequence[str], rows: Iterable[str]) -> str:
    """Markdown table of a header and rendered rows."""
    return "\n".join([row(header), "|---" * len(header) + "|", *rows, ""])


def tables() -> Iterable[str]:
    """The tables of docs/scaling.md, in its order."""
    networks, chips = [size(name) for name in list_models()], [chip.name for chip in CHIPS]
    worst = max(networks, key=lambda network: network.all_reduced / network.multiply_adds)
    heads = (
        "parameters",
        "BN statistics",
        "BN layers",
        "MB all-reduced",
        "MB of state",
        "G multiply-adds",
        "TFLOP a step",
    )
    yield table(("network", *heads), map(size_row, networks))
    yield table(("ms", *chips), map(times_row, networks))
    yield table(
        (f"`{worst.name}`", *(f"{n:,} devices" for n in COUNTS)),
        (efficiency_row(worst, chip, lambda devices: IMAGES, COUNTS) for chip in CHIPS),
    )
    yield table(
        (f"`{worst.name}`", *(f"{n:,} devices, {LARGE_BATCH // n} each" for n in COUNTS[2:])),
        (efficiency_row(worst, chip, lambda devices: LARGE_BATCH // devices, COUNTS[2:]) for chip in CHIPS),
    )
    yield table(
        ("cores a host", *(f"{chip.name}, {chip.per_host} a host" for chip in CHIPS)),
        (row([f"`{n.name}`", *(f"{cores(n, chip):.0f}" for chip in CHIPS)]) for n in networks),
    )


if __name__ == "__main__":
    print("\n".join(tables()))
