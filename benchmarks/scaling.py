"""Prints the tables of docs/scaling.md: what data parallelism should cost on a pod, predicted and not measured.

    python benchmarks/scaling.py

Bytes and multiply-adds are read off the networks by `jax.eval_shape`, which computes nothing. Peaks and bandwidths are
the constants below, each with its source.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax

from inception_jax.errors import UserError
from inception_jax.models import create_model, list_models, summary
from inception_jax.models.initialize import variable_shapes

IMAGES = 32
"""Images on each device and step, the recipes'."""
PEAK_SHARE = 0.3
"""Share of the peak that the convolutions reach; docs/scaling.md says why."""
IMAGES_PER_CORE = 700
"""Images that one core of a host reads, decodes and crops in a second (r in docs/scaling.md)."""
LARGE_BATCH = 8192
"""Global batch up to which the linear scaling rule was seen to hold on ImageNet (Goyal et al., arXiv 1706.02677)."""
COUNTS = (8, 64, 256, 1024, 4096)
METRICS = 5
"""Numbers averaged beside gradients and statistics (steps.train_step; the gradient's norm is taken afterwards)."""
FLOAT = 4
"""Bytes of a float32: parameters, gradients and statistics are float32 in bfloat16 training too."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device and its network, as documented."""

    name: str
    peak: float
    """bfloat16 FLOP/s, dense."""
    few: float
    """Bytes/s that a device sends in an all-reduce of fewer than `whole` devices."""
    many: float
    """The same from `whole` devices on."""
    whole: int
    largest: int
    """Devices of the largest system counted here."""
    host: int
    """Devices of one host."""


CHIPS = (
    # Peak and 1.1 PB/s of all-reduce for 4,096 chips, 269 GB/s each: Cloud TPU documentation, "TPU v4". Six
    # links of 45 GB/s one way (the JAX authors' "How to Scale Your Model", on TPUs) are 270.
    Chip("TPU v4", 275e12, 135e9, 270e9, 64, 4096, 4),
    # Cloud TPU documentation, "TPU v5e": 400 GB/s a chip in both directions, 51.2 TB/s of all-reduce for 256 chips.
    Chip("TPU v5e", 197e12, 100e9, 200e9, 256, 256, 8),
    # Cloud TPU documentation, "TPU v5p": 1,200 GB/s a chip in both directions; jobs of up to 6,144 chips.
    Chip("TPU v5p", 459e12, 300e9, 600e9, 64, 4096, 4),
    # NVIDIA's figures for H100 SXM5: 989 TFLOP/s dense, 900 GB/s of NVLink in both directions. Between nodes eight
    # adapters of 400 Gb/s: "How to Scale Your Model", on GPUs, after NVIDIA's DGX SuperPOD reference architecture.
    Chip("H100", 989e12, 450e9, 8 * 50e9, 16, 4096, 8),
)


@dataclasses.dataclass(frozen=True)
class Size:
    """A network as a data-parallel step sees it."""

    name: str
    parameters: int
    statistics: int
    """Running means and variances of all BN layers, in numbers."""
    norms: int
    """BN layers."""
    multiply_adds: int
    """Multiply-adds of one image forward; the auxiliary head, about a thousandth more, is not in it."""

    @property
    def all_reduced(self) -> int:
        """Bytes that the step's all-reduces take in on each device."""
        return FLOAT * (self.parameters + self.statistics + METRICS)


@functools.cache
def size(name: str) -> Size:
    """The network with 1,000 classes at 299 pixels, with its auxiliary head if it can have one."""
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
    """Time of one step's arithmetic: forward, and twice that backward, two FLOP per multiply-add."""
    return 3 * 2 * network.multiply_adds * images / (PEAK_SHARE * chip.peak)


def all_reduce_seconds(network: Size, chip: Chip, devices: int) -> float:
    """Time of a ring all-reduce: every device sends its part of the sum, then of the result, to the next."""
    bandwidth = chip.many if devices >= chip.whole else chip.few
    return 2 * (devices - 1) / devices * network.all_reduced / bandwidth


def efficiencies(network: Size, chip: Chip, devices: int, images: int = IMAGES) -> tuple[float, float]:
    """Share of the step that is arithmetic, (all-reduce after the backward pass, all-reduce beside it)."""
    step, sending = step_seconds(network, chip, images), all_reduce_seconds(network, chip, devices)
    # Gradients come into being in the backward pass, the last two thirds of the step.
    left_over = max(0.0, sending - step * 2 / 3)
    return step / (step + sending), step / (step + left_over)


def cores(network: Size, chip: Chip) -> float:
    """Number of cores of one host that feed its devices."""
    return chip.host * IMAGES / step_seconds(network, chip) / IMAGES_PER_CORE


def size_row(network: Size) -> str:
    """One network's bytes and arithmetic."""
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
    """One network's step and all-reduce in ms, on the largest system of each chip."""
    times = [(step_seconds(network, c), all_reduce_seconds(network, c, c.largest)) for c in CHIPS]
    return row([f"`{network.name}`", *(f"{1e3 * step:.1f} + {1e3 * sending:.2f}" for step, sending in times)])


def efficiency_row(network: Size, chip: Chip, images_on: Callable[[int], int], counts: Iterable[int]) -> str:
    """One chip's efficiency in percent for each number of devices, without and with overlap."""
    cells = [chip.name]
    for devices in counts:
        after, beside = efficiencies(network, chip, devices, images_on(devices))
        cells.append(f"{100 * after:.0f} / {100 * beside:.0f}" if devices <= chip.largest else "")
    return row(cells)


def row(cells: Iterable[Any]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(heads: Iterable[str], rows: Iterable[str]) -> str:
    """A Markdown table."""
    heads = list(heads)
    return "\n".join([row(heads), "|---" * len(heads) + "|", *rows, ""])


def tables() -> Iterable[str]:
    """All tables of docs/scaling.md, in its order."""
    networks, chips = [size(name) for name in list_models()], [chip.name for chip in CHIPS]
    hungriest = max(networks, key=lambda network: network.all_reduced / network.multiply_adds)
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
        (f"`{hungriest.name}`", *(f"{n:,} devices" for n in COUNTS)),
        (efficiency_row(hungriest, chip, lambda devices: IMAGES, COUNTS) for chip in CHIPS),
    )
    yield table(
        (f"`{hungriest.name}`", *(f"{n:,} devices, {LARGE_BATCH // n} each" for n in COUNTS[2:])),
        (efficiency_row(hungriest, chip, lambda devices: LARGE_BATCH // devices, COUNTS[2:]) for chip in CHIPS),
    )
    yield table(
        ("cores a host", *(f"{chip.name}, {chip.host} a host" for chip in CHIPS)),
        (row([f"`{n.name}`", *(f"{cores(n, chip):.0f}" for chip in CHIPS)]) for n in networks),
    )


if __name__ == "__main__":
    print("\n".join(tables()))
