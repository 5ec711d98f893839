"""Core-to-core bandwidth and the speed of a network on the same cores, measured in turn.

    python benchmarks/cores.py --model inception_v4 --batch-size 4 --turns 40

With several last-level caches, or virtual cores that the host migrates, the same network has two speeds: XLA's
convolutions write patches to memory (im2col) on one core and multiply them on another. The last lines give medians over
the turns with fast and, if any, with slow core-to-core transfer. A matrix product, which transfers little, is measured
for comparison.
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
"""Bytes per transfer: more than a core's private cache, less than the shared one."""
SIDE = 2048
"""Rows and columns of the multiplied matrices."""
SLOW = 0.6
"""Fraction of the maximum bandwidth below which a turn is slow; without a shared cache it is about a third."""


def main() -> int:
    """Measure in turn and print a table; returns 0, or 2 for a mistake."""
    parser = argparse.ArgumentParser(description="Core-to-core bandwidth and the speed of a network.")
    parser.add_argument("--model", default="inception_v4")
    parser.add_argument("--mode", default="infer", choices=("train", "infer"))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=299)
    parser.add_argument("--turns", type=int, default=40, help="number of turns of about 1.5 seconds")
    args = parser.parse_args()
    if args.turns < 1:
        print(f"cores: --turns is {args.turns}; it must be 1 or more.", file=sys.stderr)
        return 2
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        print("cores: this needs Linux and two cores.", file=sys.stderr)
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
    print(f"{'transfer, GB/s':>16}{'images/s':>10}{'matmul, GFLOP/s':>18}")
    rows: list[tuple[float, float, float]] = []
    for _ in range(args.turns):
        images = step.steps_per_second(1.0) * args.batch_size
        matmuls = matmuls_per_second(lambda: multiply(matrix).block_until_ready())
        rows.append((core_to_core_bandwidth(), images, 2e-9 * SIDE**3 * matmuls))
        print(f"{rows[-1][0]:>16.1f}{images:>10.2f}{rows[-1][2]:>18.0f}", flush=True)
    limit = SLOW * max(row[0] for row in rows)
    for chosen in ([row for row in rows if row[0] >= limit], [row for row in rows if row[0] < limit]):
        if chosen:
            bandwidth, images, matmul = (statistics.median(column) for column in zip(*chosen, strict=True))
            print(f"{len(chosen)} of {len(rows)}: {bandwidth:.1f} GB/s, {images:.2f} images/s, {matmul:.0f} GFLOP/s")
    return 0


def matmuls_per_second(multiply: Callable[[], object]) -> float:
    """Matrix products per second, measured for a quarter of a second."""
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < 0.25:
        multiply()
        done += 1
    return done / (time.perf_counter() - begin)


def core_to_core_bandwidth(times: int = 8) -> float:
    """Maximum rate in GB/s at which the first core reads what the last core has written."""
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
