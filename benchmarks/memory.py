"""The memory that `summary --memory` predicts against what a training takes: on Linux, on a CPU.

    python benchmarks/memory.py --model inception_v4 --image-size 149 --batches 16 32

For each batch a process of its own compiles the training step, gives back what compiling took, and trains a few steps;
the kernel says how far its memory rose meanwhile. What it had before the first step, code and state, is taken off, and
the state added again, because the prediction has it too. The difference between the two batches, by image, is free of
all that and is the figure to look at. With and without --remat in turn, the time of a step is the price of remat.
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
    """Measures each batch, predicts it and prints the table; with --child, the part of one process."""
    parser = argparse.ArgumentParser(description="The predicted memory of training against the measured one.")
    parser.add_argument("--model", default="inception_v4")
    parser.add_argument("--image-size", type=int, default=149)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--batches", type=int, nargs=2, default=(16, 32), metavar="N")
    parser.add_argument("--steps", type=int, default=3, help="that each process trains after its first")
    parser.add_argument("--child", type=int, metavar="N", help=argparse.SUPPRESS)
    args = parser.parse_args()
    xla_flags.set_flags()
    if not sys.platform.startswith("linux"):
        print("memory: only Linux says how far a process's memory rose since a moment.", file=sys.stderr)
        return 2
    if args.child:
        print(json.dumps(train(experiment(args, args.child), args.steps)))
        return 0
    from inception_jax.benchmark.step_memory import step_bytes

    measured, predicted = [], []
    print(f"{args.model}, width {args.width:g}, {args.image_size} pixels{', with remat' * args.remat}")
    print(f"{'batch':<12}{'predicted':>12}{'measured':>12}{'of it':>8}{'a step':>12}")
    for batch in args.batches:
        command = [sys.executable, __file__, *sys.argv[1:], "--child", str(batch)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        trained = json.loads(done.stdout)
        measured.append(trained["bytes"])
        predicted.append(step_bytes(experiment(args, batch), batch))
        print(f"{row(str(batch), predicted[-1], measured[-1])}{trained['seconds'] * 1e3:>9,.0f} ms", flush=True)
    images = args.batches[1] - args.batches[0]
    print(row("an image", *((bytes_[1] - bytes_[0]) / images for bytes_ in (predicted, measured))))
    return 0


def row(name: str, predicted: float, measured: float) -> str:
    """A line of the table, in MB of 1,000,000 bytes; how much of the measured the prediction is."""
    return f"{name:<12}{predicted / 1e6:>9,.1f} MB{measured / 1e6:>9,.1f} MB{predicted / measured:>8.2f}"


def experiment(args: argparse.Namespace, batch: int) -> Any:
    """The experiment to train: the paper's recipe with the given network, input and batch."""
    from inception_jax.benchmark.network import recipe

    recipe_ = recipe(args.model, batch_size=batch, image_size=args.image_size, dtype="float32")
    return dataclasses.replace(
        recipe_,
        model=dataclasses.replace(recipe_.model, width=args.width),
        train=dataclasses.replace(recipe_.train, remat=args.remat),
    )


def train(training: Any, steps: int) -> dict[str, float]:
    """Trains on random images: bytes by which that raised the process's memory, with the state; seconds of a step.

    The first step has the system give the memory, and is off the clock.
    """
    from inception_jax.benchmark.network import compile_step
    from inception_jax.steps import use_synchronous_cpu_dispatch

    use_synchronous_cpu_dispatch()
    step = compile_step("train", training)
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak starts anew
    step()
    step.finish()
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    step.finish()
    seconds = (time.perf_counter() - begin) / steps
    return {"bytes": status("VmHWM") - before + step.held_bytes, "seconds": seconds}


def status(name: str) -> int:
    """A size that the kernel keeps of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(size) * 1024


if __name__ == "__main__":
    sys.exit(main())
