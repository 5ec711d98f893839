"""Core-to-core bandwidth beside the speed of a network on the same cores, turn by turn.

    python benchmarks/cores.py --model inception_v4 --batch-size 4 --turns 40

On a machine with more than one last-level cache, or on virtual cores, which the host may move from one core to another,
the same network has two speeds: XLA's convolutions lay the images under each tap out in memory, and what one core has
laid out another multiplies. The last lines give medians: of the turns in which cores handed over fast, and of those in
which they did so slowly, if there were any. The matrix product beside it hands over little.
"""

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable

from inception_jax.system import xla_flags

xla_flags.set_flags()  # before anything imports JAX

import jax  # noqa: E402
import numpy as np  # noqa: E402

from inception_jax import steps  # noqa: E402
from inception_jax.benchmark.network import compile_step, recipe  # noqa: E402
from inception_jax.errors import UserError  # noqa: E402

BYTES = 4 * 2**20
"""Bytes transferred at once: more than a core's own cache holds, less than the shared one."""
SIDE = 2048
"""Side of the matrices that are multiplied."""
SLOW = 0.6
"""Fraction of the maximum bandwidth below which a turn is slow; without a common cache it is a third."""


def main() -> int:
    """Measures all in turn and prints; returns 0, or 2 for a mistake."""
    parser = argparse.ArgumentParser(description="A network's speed beside how fast cores hand over what they wrote.")
    parser.add_argument("--model", default="inception_v4")
    parser.add_argument("--mode", default="infer", choices=("train", "infer"))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=299)
    parser.add_argument(
        "--turns", type=int, default=40, help="each a second of the network and half of one of the rest"
    )
    args = parser.parse_args()
    if args.turns < 1:
        print(f"cores: {args.turns} turns cannot be run; give --turns 1 or more.", file=sys.stderr)
        return 2
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        print("cores: this takes Linux and two cores.", file=sys.stderr)
        return 2
    steps.use_synchronous_cpu_dispatch()
    try:
        experiment = recipe(args.model, batch_size=args.batch_size, image_size=args.image_size, dtype="float32")
        step = compile_step(args.mode, experiment)
    except UserError as error:
        print(f"cores: {error}", file=sys.stderr)
        return 2
    matrix = jax.numpy.ones((SIDE, SIDE))
    multiply = jax.jit(lambda a: a @ a)
    for _ in range(2):
        step()
        multiply(matrix).block_until_ready()
    step.finish()
    print(f"{'hand-over, GB/s':>16}{'images/s':>10}{'product, GFLOP/s':>18}")
    rows: list[tuple[float, float, float]] = []
    for _ in range(args.turns):
        images = step.steps_per_second(1.0) * args.batch_size
        rows.append(
            (
                core_to_core_bandwidth(),
                images,
                2e-9 * SIDE**3 * matmul_rate(lambda: multiply(matrix).block_until_ready()),
            )
        )
        print(f"{rows[-1][0]:>16.1f}{images:>10.2f}{rows[-1][2]:>18.0f}", flush=True)
    limit = SLOW * max(row[0] for row in rows)
    for chosen in ([row for row in rows if row[0] >= limit], [row for row in rows if row[0] < limit]):
        if chosen:
            rate, images, product = (statistics.median(column) for column in zip(*chosen, strict=True))
            print(f"{len(chosen)} of {len(rows)}: {rate:.1f} GB/s, {images:.2f} images/s, {product:.0f} GFLOP/s")
    return 0


def matmul_rate(multiply: Callable[[], object]) -> float:
    """Products a second, for a quarter of one."""
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < 0.25:
        multiply()
        done += 1
    return done / (time.perf_counter() - begin)


def core_to_core_bandwidth(times: int = 8) -> float:
    """The greatest rate at which the first core reads what the last has written, in GB/s."""
    cores = sorted(os.sched_getaffinity(0))
    buffer = np.zeros(BYTES // 8, np.int64)
    seconds = []

    def write(value: int) -> None:
        os.sched_setaffinity(0, {cores[-1]})
        buffer.fill(value)

    os.sched_setaffinity(0, {cores[0]})
    try:
        for value in range(times):
            writer = threading.Thread(target=write, args=(value,))
            writer.start()
            writer.join()
            begin = time.perf_counter()
            buffer.max()
            seconds.append(time.perf_counter() - begin)
    finally:
        os.sched_setaffinity(0, cores)
    return BYTES / min(seconds) / 1e9


if __name__ == "__main__":
    sys.exit(main())
