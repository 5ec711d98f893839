"""Duration of a start: from the command `train` to its first finished step, in separate processes."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from inception_jax import config
from inception_jax.config import Experiment
from inception_jax.errors import RunFailed, UserError

STAGES = ("interpreter", "imports", "data source", "parameters", "tracing", "lowering", "compiling", "first step")


@dataclasses.dataclass(frozen=True)
class Start:
    """Durations of repeated starts; medians."""

    seconds: float
    """Time from the command to the first finished step."""
    least_seconds: float
    most_seconds: float
    stages: dict[str, float]
    """Seconds of each of `STAGES`, and of "other". The median of each alone, so that they need not add up."""


@dataclasses.dataclass(frozen=True)
class StartupReport:
    """Durations of cold and warm starts."""

    model: str
    image_size: int
    batch_size: int
    repeats: int
    cold: Start
    """Start without a compilation cache."""
    warm: Start
    """Start with the cache that the cold start left; "compiling" is reading it."""
    help_seconds: float
    """Median duration of `inception-jax --help`."""


def benchmark(experiment: Experiment, *, repeats: int) -> StartupReport:
    """Starts trainings in a temporary directory, in pairs of one without and one with a cache.

    Args:
      experiment: what is trained, on data that are there.
      repeats: pairs; the medians count.

    Raises:
      UserError: the experiment cannot be trained.
      RunFailed: a start came to no first step.
    """
    if repeats < 1:
        raise UserError(f"--repeats is {repeats}; it must be 1 or more.")
    config.check(experiment)
    cold, warm, help_seconds = [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as directory:
            cold.append(_start(experiment, Path(directory), "cold"))
            warm.append(_start(experiment, Path(directory), "warm"))
        begin = time.monotonic()
        subprocess.run([sys.executable, "-m", "inception_jax", "--help"], check=True, stdout=subprocess.DEVNULL)
        help_seconds.append(time.monotonic() - begin)
    return StartupReport(
        model=experiment.model.name,
        image_size=experiment.data.image_size,
        batch_size=experiment.train.batch_size,
        repeats=repeats,
        cold=_median(cold),
        warm=_median(warm),
        help_seconds=statistics.median(help_seconds),
    )


def table(report: StartupReport) -> str:
    """The report as text."""
    cold, warm = report.cold, report.warm
    size = f"{report.image_size} pixels, batches of {report.batch_size}"
    lines = [f"{report.model}, {size}", f"{'':<16}{'cold':>10}{'warm':>10}"]
    for stage in (*STAGES, "other"):
        lines.append(f"{stage:<16}{cold.stages[stage]:>8.2f} s{warm.stages[stage]:>8.2f} s")
    lines.append(f"{'first step done':<16}{cold.seconds:>8.2f} s{warm.seconds:>8.2f} s")
    lines += [f"{name:<16}{least:>8.2f} s{most:>8.2f} s" for name, least, most in _spread(cold, warm)]
    return "\n".join([*lines, f"{'--help':<16}{report.help_seconds:>8.2f} s"])


def _spread(cold: Start, warm: Start) -> list[tuple[str, float, float]]:
    return [
        ("  at least", cold.least_seconds, warm.least_seconds),
        ("  at most", cold.most_seconds, warm.most_seconds),
    ]


def _start(experiment: Experiment, directory: Path, name: str) -> dict[str, float]:
    """Seconds of each stage, of "other" and of "all", of one start; its cache is `directory`'s."""
    script, report = directory / "experiment.py", directory / f"{name}.json"
    values = config.to_dict(experiment)
    script.write_text(
        f"from inception_jax import config\n\n\ndef runs():\n    return {{'startup': config.from_dict({values!r})}}\n"
    )
    command = [sys.executable, "-m", "inception_jax.benchmark.startup_probe", str(report)]
    command += ["train", str(script), "--workdir", str(directory / name)]
    # A cache of the user's own would make every start a warm one.
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    begin = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode or not report.exists():
        message = done.stderr.strip().rpartition("\n")[2].removeprefix("inception-jax: ")
        raise (UserError if done.returncode == 2 else RunFailed)(message or "a start ended before its first step.")
    probed = json.loads(report.read_text())
    stages = dict.fromkeys(STAGES, 0.0) | probed["seconds"]
    # What is before the imports: a process is made, Python starts and reads the arguments' modules.
    stages["interpreter"] = probed["begin"] - begin
    return {**stages, "other": probed["end"] - begin - sum(stages.values()), "all": probed["end"] - begin}


def _median(starts: Sequence[dict[str, float]]) -> Start:
    seconds = [start["all"] for start in starts]
    stages = {stage: statistics.median(start[stage] for start in starts) for stage in (*STAGES, "other")}
    return Start(statistics.median(seconds), min(seconds), max(seconds), stages)
