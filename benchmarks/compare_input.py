"""Comparison of our input pipeline with tf.data's fused decode-and-crop on the same JPEGs and cores.

    pip install tensorflow-cpu
    python benchmarks/compare_input.py

Four contestants, each in its own process: both pipelines up to uint8 batches, and both with TF-Slim's colours up to
float32 in [-1, 1], here on the CPU. In every round each of them runs alone for a few seconds. The table has medians of
the rounds and their ratios: images per second, images per second of processor time (less disturbed by other work on the
machine), peak memory, and its part after the imports.

tf.data decodes only the rows of the crop (decode_and_crop_jpeg), which is fastest in TensorFlow. Crops are drawn from
the same range of areas and aspects as ours, and resized bilinearly.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inception_jax.system.cores import available_cores
from inception_jax.system.memory import peak_megabytes

SIZE, PREFETCH = 299, 2
AREA, ASPECT = (0.05, 1.0), (3 / 4, 4 / 3)
CONTESTANTS = ("ours uint8", "tf.data uint8", "ours colour", "tf.data colour")

# TF-Slim's four orders of brightness, saturation, hue and contrast.
ORDERS = ("bshc", "sbch", "chbs", "hscb")


def main() -> int:
    """Runs the rounds and prints the table; with --contestant, runs one contestant."""
    parser = argparse.ArgumentParser(description="Our input pipeline against tf.data's.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each contestant in each round")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=512, help="number of photographs")
    parser.add_argument("--contestant", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if importlib.util.find_spec("tensorflow") is None:
        print("compare_input: TensorFlow is missing; pip install tensorflow-cpu.", file=sys.stderr)
        return 2
    if args.contestant:
        serve(*args.contestant, seconds=args.seconds, batch_size=args.batch_size)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        # In another process, because the peak memory of a child starts at that of its parent.
        make = "import sys, pathlib; from inception_jax.benchmark.photographs import write_photographs as write; "
        call = "write(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
        subprocess.run([sys.executable, "-c", make + call, folder, str(args.images)], check=True)
        print(table(race(folder, args.rounds, args.seconds, args.batch_size), args.batch_size))
    return 0


def race(folder: str, rounds: int, seconds: float, batch_size: int) -> dict[str, list[dict[str, float]]]:
    """Measurements of each contestant, one per round after a warm-up."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name in CONTESTANTS:
            command = [sys.executable, __file__, "--contestant", name, folder]
            command += ["--seconds", str(seconds), "--batch-size", str(batch_size)]
            processes[name] = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for number, (name, process) in itertools.product(range(rounds + 1), processes.items()):
            print(file=process.stdin, flush=True)
            measurement = json.loads(process.stdout.readline())
            if number:
                measured[name].append(measurement)
                print(f"round {number}: {name:<16}{measurement['rate']:>8,.0f} images/s", file=sys.stderr)
        for process in processes.values():
            process.stdin.close()
    return measured


def table(measured: dict[str, list[dict[str, float]]], batch_size: int) -> str:
    """Table of the medians of each contestant, and the ratios of ours to tf.data's."""
    lines = [f"{SIZE} pixels, batches of {batch_size}, {available_cores()} cores"]
    lines.append(f"{'':<16}{'images/s':>10}{'range':>16}{'per core':>10}{'peak':>10}")
    medians = {}
    for name, rounds in measured.items():
        rates = [r["rate"] for r in rounds]
        medians[name] = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        m = medians[name]
        lines.append(
            f"{name:<16}{m['rate']:>10,.0f}{f'{min(rates):,.0f} to {max(rates):,.0f}':>16}{m['per core']:>10,.0f}"
            f"{m['peak']:>7,.0f} MB, {m['peak'] - m['imported']:,.0f} MB after the imports"
        )
    for kind in ("uint8", "colour"):
        ours, theirs = medians[f"ours {kind}"], medians[f"tf.data {kind}"]
        after = (ours["peak"] - ours["imported"]) / (theirs["peak"] - theirs["imported"])
        lines.append(
            f"ours / tf.data, {kind}: {ours['rate'] / theirs['rate']:.2f} in speed, "
            f"{ours['per core'] / theirs['per core']:.2f} in speed per core, "
            f"{ours['peak'] / theirs['peak']:.2f} in memory, {after:.2f} in memory after the imports"
        )
    return "\n".join(lines)


def serve(name: str, folder: str, *, seconds: float, batch_size: int) -> None:
    """Runs one contestant: writes a measurement as JSON for every line on standard input."""
    side, kind = name.split()
    make = {"ours": our_batches, "tf.data": their_batches}[side]
    with contextlib.closing(make(folder, batch_size, colour=kind == "colour")) as batches:
        imported = next(batches)
        for _ in sys.stdin:
            # Not measured: prefetched batches and compilation.
            for _ in range(4 * PREFETCH):
                next(batches)
            processor, begin, taken, took = time.process_time(), time.perf_counter(), 0, 0.0
            while took < seconds:
                next(batches)
                taken, took = taken + 1, time.perf_counter() - begin
            images, processor = taken * batch_size, time.process_time() - processor
            memory = {"peak": peak_megabytes(), "imported": imported}
            measurement = {"rate": images / took, "per core": images / processor, **memory}
            print(json.dumps(measurement), flush=True)


def our_batches(folder: str, batch_size: int, *, colour: bool) -> Iterator[Any]:
    """Yields the peak memory after the imports, then endless batches."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from inception_jax.system import xla_flags

    xla_flags.set_flags()  # before anything imports JAX
    import jax

    from inception_jax.config import DataConfig
    from inception_jax.data import open_source, training_batches
    from inception_jax.data.colour import distort_colour, to_network_range
    from inception_jax.data.prefetch import Loading, Shard
    from inception_jax.steps import use_synchronous_cpu_dispatch

    yield peak_megabytes()
    use_synchronous_cpu_dispatch()
    preprocess = jax.jit(lambda key, images: to_network_range(distort_colour(key, images)))
    batches = training_batches(
        open_source(f"folder:{folder}", "evaluation"),  # all images
        DataConfig(image_size=SIZE, crop_area=AREA, crop_aspect=ASPECT),
        batch_size=batch_size,
        seed=0,
        shard=Shard(),
        loading=Loading(available_cores(), PREFETCH),
    )
    with contextlib.closing(batches):
        for step, batch in enumerate(batches):
            images = batch["images"][0]
            yield preprocess(jax.random.key(step), images).block_until_ready() if colour else images


def their_batches(folder: str, batch_size: int, *, colour: bool) -> Iterator[Any]:
    """Yields the same as `our_batches`."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    yield peak_megabytes()

    def preprocess(path: Any) -> Any:
        encoded = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(encoded),
            tf.zeros((1, 0, 4)),
            area_range=AREA,
            aspect_ratio_range=ASPECT,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.image.decode_and_crop_jpeg(encoded, tf.concat([begin[:2], size[:2]], 0), channels=3)
        image = tf.image.random_flip_left_right(tf.image.resize(image, (SIZE, SIZE)))
        return their_colours(tf, image / 255.0) if colour else tf.cast(image, tf.uint8)

    files = sorted(map(str, Path(folder).rglob("*.jpg")))
    dataset = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    dataset = dataset.map(preprocess, num_parallel_calls=available_cores())
    yield from iter(dataset.batch(batch_size).prefetch(PREFETCH))


def their_colours(tf: Any, image: Any) -> Any:
    """Distorts colours like TF-Slim's distort_color: float32 [H, W, 3] in [0, 1] -> [-1, 1]."""
    distortions = {
        "b": lambda x: tf.image.random_brightness(x, 32 / 255),
        "s": lambda x: tf.image.random_saturation(x, 0.5, 1.5),
        "h": lambda x: tf.image.random_hue(x, 0.2),
        "c": lambda x: tf.image.random_contrast(x, 0.5, 1.5),
    }

    def in_order(order: str) -> Any:
        distorted = image
        for letter in order:
            distorted = distortions[letter](distorted)
        return distorted

    which = tf.random.uniform((), 0, len(ORDERS), tf.int32)
    image = tf.switch_case(which, [lambda order=order: in_order(order) for order in ORDERS])
    return (tf.clip_by_value(image, 0.0, 1.0) - 0.5) * 2.0


if __name__ == "__main__":
    sys.exit(main())
