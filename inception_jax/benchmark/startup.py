"""Start-up time: from a train command to the end of its first step, in separate processes."""

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
    """Median durations of repeated starts."""

    seconds: float
    """Time from the command to the end of the first step."""
    least_seconds: float
    most_seconds: float
    stages: dict[str, float]
    """Seconds of each of `STAGES` and of "other"; medians of each stage, which need not add up."""


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
    """Start with the cache left by the cold start; "compiling" is the time to read it."""
    help_seconds: float
    """Median duration of `inception-jax --help`."""


def benchmark(experiment: Experiment, *, repeats: int) -> StartupReport:
    """Measures cold and warm starts of training in a temporary directory.

    Args:
      experiment: experiment to train, with data that exist.
      repeats: number of cold and of warm starts.

    Raises:
      UserError: the experiment is invalid.
      RunFailed: a start ended before its first step.
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
    lines.append(f"{'  minimum':<16}{cold.least_seconds:>8.2f} s{warm.least_seconds:>8.2f} s")
    lines.append(f"{'  maximum':<16}{cold.most_seconds:>8.2f} s{warm.most_seconds:>8.2f} s")
    return "\n".join([*lines, f"{'--help':<16}{report.help_seconds:>8.2f} s"])


def _start(experiment: Experiment, directory: Path, name: str) -> dict[str, float]:
    """Seconds of each stage, of "other" and of "all", of one start with the cache in `directory`."""
    script, report = directory / "experiment.py", directory / f"{name}.json"
    values = config.to_dict(experiment)
    script.write_text(
        f"from inception_jax import config\n\n\ndef runs():\n    return {{'startup': config.from_dict({values!r})}}\n"
    )
    command = [sys.executable, "-m", "inception_jax.benchmark.startup_probe", str(report)]
    command += ["train", str(script), "--workdir", str(directory / name)]
    # The user's own cache would make every start a warm one.
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    begin = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode or not report.exists():
        message = done.stderr.strip().rpartition("\n")[2].removeprefix("inception-jax: ")
        raise (UserError if done.returncode == 2 else RunFailed)(message or "a start ended before its first step.")
    probed = json.loads(report.read_text())
    stages = dict.fromkeys(STAGES, 0.0) | probed["seconds"]
    # Time before the imports: creating the process, starting Python and importing the command line.
    stages["interpreter"] = probed["begin"] - begin
    return {**stages, "other": probed["end"] - begin - sum(stages.values()), "all": probed["end"] - begin}


def _median(starts: Sequence[dict[str, float]]) -> Start:
    seconds = [start["all"] for start in starts]
    stages = {stage: statistics.median(start[stage] for start in starts) for stage in (*STAGES, "other")}
    return Start(statistics.median(seconds), min(seconds), max(seconds), stages)
