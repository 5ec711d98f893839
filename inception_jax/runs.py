"""Directory of a run: its configuration and metrics. No jax.

RUN/config.json     the format, the experiment, and metadata of the run that do not change (`RunInfo`)
RUN/metrics.jsonl   one JSON object per line: step, epoch, split, loss, top1_error, top5_error, ...
RUN/tensorboard/    the same numbers as TensorBoard events
RUN/checkpoints/    see checkpoint/training.py
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_jax import config
from inception_jax.errors import UserError
from inception_jax.system.atomic import as_run_failed, atomic_write
from inception_jax.system.file_format import KEY, check_format, with_format

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

CONFIG = "config.json"
METRICS = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """Metadata of a run that is known before its first step."""

    name: str
    """Name of the run within its experiment file."""
    steps: int
    """Length of the run."""
    training_images: int
    """Images of one epoch."""
    validation_images: int
    """Images of one evaluation."""
    parameters: int
    """Number of trained parameters, including the auxiliary head's."""
    multiply_adds: int
    """Multiply-adds per image of a forward pass in evaluation."""
    machine: str
    """Devices and versions, for display."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Contents of a run's directory."""

    directory: Path
    info: RunInfo
    experiment: config.Experiment
    metrics: list[dict[str, Any]]

    @property
    def finished(self) -> bool:
        """Whether the last step has been evaluated, or the patience ended the run."""
        last = any(m["split"] == "validation" and m["step"] == self.info.steps for m in self.metrics)
        return last or is_out_of_patience(self.metrics, self.experiment.train.patience)


def read_run(directory: str | Path) -> Run:
    """Reads a run's configuration and metrics; UserError if the directory holds no run."""
    directory = Path(directory)
    path = directory / CONFIG
    if not path.is_file():
        raise UserError(f"{directory} is not a run: it has no {CONFIG}; give the directory that `train` wrote to.")
    try:
        values = json.loads(path.read_text())
        check_format(path, values.get(KEY))
        info, experiment = RunInfo(**values["info"]), config.from_dict(values["experiment"])
        _check_info(info)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not the configuration of a run of this version: {error}") from error
    return Run(directory, info, experiment, read_metrics(directory))


def evaluations_since_best(metrics: Iterable[Mapping[str, Any]]) -> int:
    """Number of evaluations after the one with the lowest top-1 error of the averaged parameters, the earliest such."""
    errors = [m["top1_error"] for m in metrics if m.get("parameters") == "averaged"]
    return len(errors) - 1 - errors.index(min(errors)) if errors else 0


def is_out_of_patience(metrics: Iterable[Mapping[str, Any]], patience: int | None) -> bool:
    """Whether a run with these metrics ends by `train.patience`."""
    return patience is not None and evaluations_since_best(metrics) >= patience


def trained_on(path: str | Path) -> list[str]:
    """Source of the images of the run that `path` is, or whose checkpoint it is; empty where it is neither."""
    path = Path(path)
    directories = [path, path.parent.parent] if path.parent.name == "checkpoints" else [path]
    return [read_run(run).experiment.data.source for run in directories if (run / CONFIG).is_file()]


def _check_info(info: RunInfo) -> None:
    """Raises ValueError if a number is not whole or too small, or a text is not one."""
    for field in dataclasses.fields(RunInfo):
        value, least = getattr(info, field.name), 0 if field.name == "steps" else 1
        if field.type in (int, str) and type(value) is not field.type or field.type is int and value < least:
            raise ValueError(f"{field.name} is {value!r}")


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl; an incomplete last line, left by a killed process, is dropped.

    Raises:
      UserError: another line was not written by training; the message has its number.
    """
    path = Path(directory) / METRICS
    if not path.is_file():
        return []
    try:
        lines = path.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if not lines[-1].endswith("}"):
        lines.pop()
    return [_read_record(path, number, line) for number, line in enumerate(lines, 1) if line]


def _read_record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        for field in ("step", "split", *record):
            value, wanted = record[field], {"step": int, "split": str, "parameters": str}.get(field, int | float | None)
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise ValueError(f"{field} is {value!r}")
        return record
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
        raise UserError(f"{path}, line {number} was not written by train: {what}; fix or remove that line.") from error


def write_config(directory: str | Path, info: RunInfo, experiment: config.Experiment) -> None:
    """Writes config.json, whole or not at all."""
    values = with_format({"info": dataclasses.asdict(info), "experiment": config.to_dict(experiment)})
    with atomic_write(Path(directory) / CONFIG) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


class MetricsWriter:
    """Writer of metrics.jsonl and TensorBoard events.

    Records after `step` are dropped, so that a run killed after step 70 and resumed from its checkpoint of step 50 has
    each step once.
    """

    def __init__(self, directory: str | Path, *, step: int):
        """Opens the files of `directory`, keeping the records up to and including `step`."""
        directory = Path(directory)
        self._directory, self._step = directory, step
        kept = [record for record in read_metrics(directory) if record["step"] <= step]
        with atomic_write(directory / METRICS) as file:
            file.write("".join(json.dumps(record) + "\n" for record in kept).encode())
        with as_run_failed(directory):
            self._file = (directory / METRICS).open("a")

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes one record; each number but `step` also becomes a TensorBoard scalar."""
        with as_run_failed(self._directory):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        group = "/".join(str(record[k]) for k in ("split", "parameters") if k in record)
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                self._events.add_scalar(f"{group}/{name}", value, record["step"])

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if "_events" in vars(self):
            self._events.close()

    @functools.cached_property
    def _events(self) -> "SummaryWriter":
        # Imported at the first record, while the devices run a step: if PyTorch is installed it is imported too, which
        # takes seconds.
        from tensorboardX import SummaryWriter

        # tensorboardX names its file by the second and truncates an existing one; the suffix makes the name unique.
        suffix = f".{self._step:09d}"
        with as_run_failed(self._directory):
            return SummaryWriter(
                str(self._directory / "tensorboard"), purge_step=self._step + 1, flush_secs=10, filename_suffix=suffix
            )
