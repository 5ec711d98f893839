"""Speed of the input pipeline and of each of its stages on this machine."""

import contextlib
import dataclasses
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from inception_jax import build, config
from inception_jax.benchmark.photographs import write_photographs
from inception_jax.config import DataConfig, Experiment, TrainConfig
from inception_jax.data import colour, open_source, preprocess
from inception_jax.data.sources import Source
from inception_jax.errors import UserError
from inception_jax.system.cores import available_cores
from inception_jax.system.memory import peak_megabytes

_SAMPLE = 256
"""Number of images, spread over the source, for measurements of the stages and of the encoded size."""
_DECODED = 64
"""Number of images kept decoded, which take half a megabyte each for ImageNet."""


@dataclasses.dataclass(frozen=True)
class PipelineReport:
    """Speed and memory of the input pipeline; a megabyte is 1,000,000 bytes."""

    source: str
    image_size: int
    batch_size: int
    threads: int
    repeats: int
    cores: int
    """Number of cores that the process may use."""
    bytes_per_image: float
    """Mean encoded size over a sample."""
    images_per_second: float
    """Rate of the pipeline up to uint8 batches on the host, median of the repeats."""
    images_per_second_least: float
    images_per_second_greatest: float
    megabytes_per_second: float
    """Encoded bytes read at the median rate."""
    busy_cores: float
    """Processor time of the process divided by wall time."""
    images_per_second_per_core: float
    """Images per second of processor time."""
    peak_megabytes: float
    """Peak memory of the process after the measurement of the pipeline."""
    growth_megabytes: float
    """Increase of the peak memory during the measurement of the pipeline."""
    stages: dict[str, float]
    """Images per second of read, decode and crop_and_resize on one thread, and of colour on the device."""
    device: str
    """Device on which colours are distorted."""


def benchmark(
    spec: str | None,
    *,
    image_size: int,
    batch_size: int,
    threads: int | None,
    seconds: float,
    repeats: int,
    data_dir: str | None = None,
) -> PipelineReport:
    """Measures the input pipeline of training with the default preprocessing.

    Args:
      spec: `spec` of `open_source`; None for photographs made in a temporary folder.
      image_size: Side of a crop in pixels.
      batch_size: Images per batch.
      threads: Threads of the pipeline; None is one per core.
      seconds: Duration of each repeat and of each stage.
      repeats: Number of measurements of the pipeline, after a warm-up.
      data_dir: As in `open_source`.

    Raises:
      UserError: the source cannot be opened, an image is broken, or a value is out of its range.
    """
    if repeats < 1 or not seconds > 0:
        raise UserError(f"there are {repeats} repeats of {seconds:g} seconds; there must be 1 or more, of more than 0.")
    data = DataConfig(image_size=image_size, threads=threads, data_dir=data_dir)
    experiment = Experiment(data=data, train=TrainConfig(batch_size=batch_size))
    config.check(experiment)
    if spec is not None:
        return _measure(experiment, open_source(spec, "train", data_dir=data_dir), spec, seconds, repeats)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        photographs = open_source(f"folder:{folder}", "evaluation")  # all of them
        return _measure(experiment, photographs, f"{len(photographs)} photographs", seconds, repeats)


def table(report: PipelineReport) -> str:
    """Report as text."""
    r = report
    least, greatest = r.images_per_second_least, r.images_per_second_greatest
    lines = [
        f"{r.source}, {r.bytes_per_image / 1000:,.1f} KB an image; crops of {r.image_size} pixels, batches of "
        f"{r.batch_size}; threads: {r.threads}, cores: {r.cores}",
        f"{'whole pipeline':<20}{r.images_per_second:>10,.0f} images/s, {r.megabytes_per_second:,.1f} MB/s "
        f"(median of {r.repeats}: {least:,.0f} to {greatest:,.0f} images/s)",
        f"{'per core':<20}{r.images_per_second_per_core:>10,.0f} images/s ({r.busy_cores:.2f} cores were busy)",
        f"{'memory':<20}{r.peak_megabytes:>10,.0f} MB at most, {r.growth_megabytes:,.0f} of them by the pipeline",
        "",
        f"each stage alone, on one thread; colour on {r.device}:",
        *(f"{name.replace('_', ' '):<20}{rate:>10,.0f} images/s" for name, rate in r.stages.items()),
    ]
    return "\n".join(lines)


def _measure(experiment: Experiment, source: Source, name: str, seconds: float, repeats: int) -> PipelineReport:
    before = peak_megabytes()
    rates, busy = _measure_pipeline(experiment, source, seconds, repeats)
    peak = peak_megabytes()  # before the stages, which keep a sample in memory
    numbers = np.linspace(0, len(source) - 1, min(len(source), _SAMPLE)).astype(int).tolist()
    sizes = [len(image) if isinstance(image, bytes) else image.nbytes for image, *_ in map(source.read, numbers)]
    median, size = statistics.median(rates), statistics.mean(sizes)
    return PipelineReport(
        source=name,
        image_size=experiment.data.image_size,
        batch_size=experiment.train.batch_size,
        threads=experiment.data.threads or available_cores(),
        repeats=repeats,
        cores=available_cores(),
        bytes_per_image=size,
        images_per_second=median,
        images_per_second_least=min(rates),
        images_per_second_greatest=max(rates),
        megabytes_per_second=median * size / 1e6,
        busy_cores=statistics.median(busy),
        images_per_second_per_core=statistics.median(rate / cores for rate, cores in zip(rates, busy, strict=True)),
        peak_megabytes=peak,
        growth_megabytes=peak - before,
        stages=_measure_stages(experiment, source, numbers, seconds),
        device=jax.devices()[0].device_kind,
    )


def _measure_pipeline(
    experiment: Experiment, source: Source, seconds: float, repeats: int
) -> tuple[list[float], list[float]]:
    """Images per second and busy cores of each repeat."""
    rates, busy = [], []
    with contextlib.closing(build.train_batches(experiment, source, 0)) as batches:
        _rate(batches, seconds)  # warm-up: starts threads and fills the system's cache of files
        for _ in range(repeats):
            begin, processor = time.perf_counter(), time.process_time()
            rates.append(experiment.train.batch_size * _rate(batches, seconds))
            busy.append((time.process_time() - processor) / (time.perf_counter() - begin))
    return rates, busy


def _measure_stages(experiment: Experiment, source: Source, numbers: Sequence[int], seconds: float) -> dict[str, float]:
    """Images per second of each stage."""
    data, batch_size = experiment.data, experiment.train.batch_size
    crop = functools.partial(
        preprocess.distorted_crop,
        rng=np.random.default_rng(0),
        size=data.image_size,
        area=data.crop_area,
        aspect=data.crop_aspect,
        flip=data.flip,
        resize=data.resize,
    )
    scratch = preprocess.Scratch()
    records = [source[number] for number in numbers]
    decoded = [preprocess.decode(record.image, record.name) for record in records[:_DECODED]]
    images = np.stack([crop(decoded[slot % len(decoded)]) for slot in range(batch_size)])
    on_device = jax.device_put(images)
    keys = list(jax.random.split(jax.random.key(0), 8))
    stages: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {
        "read": (source.__getitem__, numbers),
        "decode": (lambda record: preprocess.decode(record.image, record.name, scratch), records),
        "crop_and_resize": (functools.partial(crop, out=np.empty_like(images[0])), decoded),
        "colour": (lambda key: _network_input(key, on_device).block_until_ready(), keys),
    }
    rates = {}
    for name, (work, items) in stages.items():
        done = map(work, itertools.cycle(items))
        next(done)  # compiles
        rates[name] = _rate(done, seconds)
    return {**rates, "colour": rates["colour"] * batch_size}


@jax.jit
def _network_input(key: jax.Array, images: jax.Array) -> jax.Array:
    return colour.to_network_range(colour.distort_colour(key, images))


def _rate(things: Iterator[Any], seconds: float) -> float:
    """Items per second of an endless iterator, measured for about `seconds`."""
    begin, taken, took = time.perf_counter(), 0, 0.0
    while took < seconds:
        next(things)
        taken, took = taken + 1, time.perf_counter() - begin
    return taken / took
