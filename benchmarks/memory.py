"""Memory predicted by `summary --memory` against memory measured in training, on Linux on a CPU.

    python benchmarks/memory.py --model inception_v4 --image-size 149 --batches 16 32

For each batch size a process compiles the training step, releases the memory of compilation and trains a few steps; the
peak is read from the kernel. Memory held before the first step (code and state) is subtracted, and the state added
back, since the prediction includes it. The difference between the two batch sizes per image is free of such offsets:
compare that first. Run with and without --remat, --replicas and --freeze for what each costs in time.
"""

import argparse
import ctypes
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from inception_jax.system import xla_flags


def main() -> int:
    """Measure and predict each batch size and print a table; with --child, run one measurement."""
    parser = argparse.ArgumentParser(description="Predicted against measured memory of training.")
    parser.add_argument("--model", default="inception_v4")
    parser.add_argument("--image-size", type=int, default=149)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--replicas", type=int, help="train.replicas, which must divide both batches")
    parser.add_argument("--freeze", metavar="STAGES", help="train.freeze, such as stem,inception_a or all")
    parser.add_argument("--batches", type=int, nargs=2, default=(16, 32), metavar="N")
    parser.add_argument("--steps", type=int, default=3, help="timed steps after the first")
    parser.add_argument("--child", type=int, metavar="N", help=argparse.SUPPRESS)
    args = parser.parse_args()
    xla_flags.set_flags()
    if not sys.platform.startswith("linux"):
        print("memory: this needs Linux, which can reset a process's peak memory.", file=sys.stderr)
        return 2
    if args.child:
        print(json.dumps(train(experiment(args, args.child), args.steps)))
        return 0
    from inception_jax.benchmark.step_memory import compiled_bytes

    measured, predicted = [], []
    options = {"replicas": args.replicas, "frozen": args.freeze, "remat": args.remat}
    given = "".join(f", {name} {value}" for name, value in options.items() if value)
    print(f"{args.model}, width {args.width:g}, {args.image_size} pixels{given}")
    print(f"{'batch':<12}{'predicted':>12}{'measured':>12}{'ratio':>8}{'step':>12}")
    for batch in args.batches:
        command = [sys.executable, __file__, *sys.argv[1:], "--child", str(batch)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        trained = json.loads(done.stdout)
        measured.append(trained["bytes"])
        predicted.append(compiled_bytes(experiment(args, batch)))
        print(f"{row(str(batch), predicted[-1], measured[-1])}{trained['seconds'] * 1e3:>9,.0f} ms", flush=True)
    images = args.batches[1] - args.batches[0]
    print(row("per image", *((bytes_[1] - bytes_[0]) / images for bytes_ in (predicted, measured))))
    return 0


def row(name: str, predicted: float, measured: float) -> str:
    """Table row: MB (10^6 bytes), and the ratio predicted / measured."""
    return f"{name:<12}{predicted / 1e6:>9,.1f} MB{measured / 1e6:>9,.1f} MB{predicted / measured:>8.2f}"


def experiment(args: argparse.Namespace, batch: int) -> Any:
    """The paper's recipe with the given network, image size and batch size."""
    from inception_jax.benchmark.network import recipe

    recipe_ = recipe(args.model, batch_size=batch, image_size=args.image_size, dtype="float32")
    return dataclasses.replace(
        recipe_,
        model=dataclasses.replace(recipe_.model, width=args.width),
        train=dataclasses.replace(recipe_.train, remat=args.remat, replicas=args.replicas, freeze=args.freeze),
    )


def train(training: Any, steps: int) -> dict[str, float]:
    """Train on random images; return the memory of training in bytes, including the state, and the seconds per step.

    The first step, in which the memory is allocated, is not timed.
    """
    from inception_jax.benchmark.network import compile_step
    from inception_jax.steps import use_synchronous_cpu_dispatch

    use_synchronous_cpu_dispatch()
    step = compile_step("train", training)
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    step()
    step.finish()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    step.finish()
    seconds = (time.perf_counter() - begin) / steps
    return {"bytes": status("VmHWM") - before + step.held_bytes, "seconds": seconds}


def status(name: str) -> int:
    """Size in bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(size) * 1024


if __name__ == "__main__":
    sys.exit(main())
