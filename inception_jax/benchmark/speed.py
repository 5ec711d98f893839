"""Speed of a network in training or inference on this machine, with its rooflines."""

import dataclasses
import platform
import statistics
from pathlib import Path
from typing import Any, Literal

import flax
import jax
import jaxlib

from inception_jax import build
from inception_jax.benchmark import fitting_batch, roofline
from inception_jax.benchmark.network import CompiledStep, DType, Mode, compile_step
from inception_jax.benchmark.roofline import Limits
from inception_jax.config import Experiment
from inception_jax.errors import UserError
from inception_jax.models.summary import summarize
from inception_jax.system.cores import available_cores
from inception_jax.system.memory import explain_out_of_memory, peak_megabytes

_WARM_UP = 3
_PROFILED_STEPS = 10


@dataclasses.dataclass(frozen=True)
class SpeedReport:
    """Speed and memory of a step over all devices; a megabyte is 1,000,000 bytes."""

    mode: Mode
    model: str
    batch_size: int
    image_size: int
    dtype: DType
    images_per_second: float
    """Median over the repeats."""
    images_per_second_least: float
    images_per_second_greatest: float
    repeats: int
    step_milliseconds: float
    """Duration of a step at the median rate."""
    compile_seconds: float
    """Time to trace and compile the step; less if JAX's compilation cache has it."""
    multiply_adds: int
    """Multiply-adds per image of the convolutions and the classifier in the forward pass."""
    flops_per_second: float
    """Two operations per multiply-add of the forward pass; in training three times that, for the two gradients.
    Rematerialisation, and layers other than convolutions and the classifier, are not counted."""
    matmul_fraction: float
    """`flops_per_second` as a fraction of that of a large matrix product, `limits.measured.flops_per_second`."""
    limits: Limits
    step_megabytes: float
    """Memory of the compiled step: arguments, results and temporaries."""
    peak_megabytes: float | None
    """Peak memory; None if an earlier measurement in this process had a higher peak."""
    peak_of: Literal["device", "process"]
    """Owner of `peak_megabytes`: the device with the highest peak, or this process if devices do not report one."""
    devices: int
    device: str
    cores: int
    """Number of cores that this process may use."""
    versions: dict[str, str]
    profile: str | None
    """Directory with a profile of ten more steps, or None."""


def benchmark(
    mode: Mode, experiment: Experiment, *, seconds: float, repeats: int, directory: Path | None
) -> SpeedReport:
    """Measures one network, and the machine's rates, on all devices of this machine.

    Args:
      mode: "train" or "infer".
      experiment: experiment made by `network.recipe`.
      seconds: duration of each repeat, at least one step.
      repeats: number of repeats.
      directory: for a profile of ten more steps (plugins/profile/TIME/HOST.xplane.pb), or None.

    Raises:
      UserError: the step exceeds the devices' memory, or a value is out of its range.
    """
    if repeats < 1 or not seconds > 0:
        raise UserError(f"--repeats is {repeats} and --seconds is {seconds:g}; they must be 1 or more, and above 0.")
    with explain_out_of_memory(lambda: _too_large(mode, experiment)):
        return _measure(mode, experiment, seconds, repeats, directory)


def table(report: SpeedReport) -> str:
    """The report as text."""
    r, measured, rates = report, report.limits.measured, report.limits.rates
    verb = "training" if r.mode == "train" else "inference"
    lines = [
        f"{r.model}, {verb}: {r.batch_size} images of {r.image_size} pixels, {r.dtype}; "
        f"{r.devices} x {r.device}, cores: {r.cores}",
        f"{'speed':<16}{r.images_per_second:>10,.2f} images/s (median of {r.repeats}: "
        f"{r.images_per_second_least:,.2f} to {r.images_per_second_greatest:,.2f})",
        f"{'a step':<16}{r.step_milliseconds:>10,.1f} ms; compiled in {r.compile_seconds:,.1f} s",
        f"{'arithmetic':<16}{r.flops_per_second / 1e9:>10,.1f} GFLOP/s, {r.matmul_fraction:.0%} of a large matrix "
        f"product's {measured.flops_per_second / 1e9:,.1f}",
        f"{'limits':<16}{rates.flops_per_second / 1e9:>10,.1f} GFLOP/s and {rates.bytes_per_second / 1e9:,.1f} GB/s, "
        + ("measured" if rates == measured else "of the GPU"),
        *(
            f"{name:<16}{bound.seconds * 1e3:>10,.1f} ms, by {bound.limit}: {bound.operations / 1e9:,.1f} GFLOP and "
            f"{bound.bytes / 1e6:,.1f} MB"
            for name, bound in (("roofline", r.limits.analytical), ("roofline by XLA", r.limits.compiled))
        ),
        f"{'memory':<16}{r.step_megabytes:>10,.1f} MB a step"
        + (f"; the {r.peak_of} held {r.peak_megabytes:,.1f} MB at peak" if r.peak_megabytes else ""),
    ]
    if r.profile:
        lines.append(f"{'profile':<16}pip install xprof && xprof server --logdir {r.profile}")
    return "\n".join(lines)


def _too_large(mode: Mode, experiment: Experiment) -> str:
    size = experiment.data.image_size
    estimate = (
        fitting_batch.training(experiment)
        if mode == "train"
        else fitting_batch.inference(build.make_model(experiment), size)
    )
    clause = fitting_batch.sentence("--batch-size", experiment.train.batch_size, size, estimate)
    return f"{experiment.model.name}: {clause}."


def _measure(mode: Mode, experiment: Experiment, seconds: float, repeats: int, directory: Path | None) -> SpeedReport:
    held_before = _peak_bytes()
    step = compile_step(mode, experiment)
    for _ in range(_WARM_UP):
        step()
    step.finish()
    size, batch = experiment.data.image_size, experiment.train.batch_size
    rates = [batch * step.steps_per_second(seconds) for _ in range(repeats)]
    median, held = statistics.median(rates), _peak_bytes()
    if directory:
        _profile(step, directory)
    model = build.make_model(experiment)
    multiply_adds = sum(row.multiply_adds for row in summarize(model, size))
    operations = 2 * multiply_adds * (3 if mode == "train" else 1)
    limits = roofline.limits(
        step.program,
        model,
        image_size=size,
        batch_size=batch,
        operations=operations,
        held=step.held_bytes,
        train=mode == "train",
    )
    return SpeedReport(
        mode=mode,
        model=experiment.model.name,
        batch_size=batch,
        image_size=size,
        dtype=experiment.model.dtype,
        images_per_second=median,
        images_per_second_least=min(rates),
        images_per_second_greatest=max(rates),
        repeats=repeats,
        step_milliseconds=1e3 * batch / median,
        compile_seconds=step.compile_seconds,
        multiply_adds=multiply_adds,
        flops_per_second=operations * median,
        matmul_fraction=operations * median / limits.measured.flops_per_second,
        limits=limits,
        step_megabytes=_step_bytes(step.program) / 1e6,
        peak_megabytes=held / 1e6 if held > held_before else None,
        **_machine(),
        profile=None if directory is None else str(directory),
    )


def _profile(step: CompiledStep, directory: Path) -> None:
    """Writes a profile of ten steps for XProf and TensorBoard."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Tracing Python calls would slow the host down.
    with jax.profiler.trace(directory, profiler_options=options):
        for _ in range(_PROFILED_STEPS):
            step()
        step.finish()


def _step_bytes(program: Any) -> int:
    """Memory of a step over all devices."""
    m = program.memory_analysis()
    given = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
    return jax.local_device_count() * (given + m.temp_size_in_bytes)


def _device_peaks() -> list[int]:
    """Peak bytes of each device; empty where the backend does not report them."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return [values["peak_bytes_in_use"] for values in stats if "peak_bytes_in_use" in values]


def _peak_bytes() -> float:
    return max(_device_peaks(), default=1e6 * peak_megabytes())


def _machine() -> dict[str, Any]:
    return {
        "peak_of": "device" if _device_peaks() else "process",
        "devices": jax.local_device_count(),
        "device": jax.local_devices()[0].device_kind,
        "cores": available_cores(),
        "versions": {
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "flax": flax.__version__,
            "python": platform.python_version(),
        },
    }
