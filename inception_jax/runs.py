"""A run's directory: what training writes there and what everything else reads. No jax.

RUN/config.json     the format, the experiment, and metadata of the run that do not change (`RunInfo`)
RUN/metrics.jsonl   one JSON object a line: step, epoch, split, loss, top1_error, top5_error, ...
RUN/tensorboard/    the same numbers as TensorBoard events
RUN/checkpoints/    see checkpoint/training.py
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_jax import config
from inception_jax.errors import RunFailed, UserError
from inception_jax.system.atomic import atomic_write
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
    """Number of trained parameters, the auxiliary head's included."""
    multiply_adds: int
    """Multiply-adds of one forward pass of one image, in evaluation."""
    machine: str
    """Devices and versions, in words."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's directory as read."""

    directory: Path
    info: RunInfo
    experiment: config.Experiment
    metrics: list[dict[str, Any]]

    @property
    def finished(self) -> bool:
        """Whether the last step has been evaluated."""
        return any(m["split"] == "validation" and m["step"] == self.info.steps for m in self.metrics)


def read_run(directory: str | Path) -> Run:
    """Reads a run's configuration and metrics; UserError when the directory holds no run."""
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


def _check_info(info: RunInfo) -> None:
    """Raises ValueError where a number is no whole one or too small, or a text is none."""
    for field in dataclasses.fields(RunInfo):
        value, least = getattr(info, field.name), 0 if field.name == "steps" else 1
        if field.type in (int, str) and type(value) is not field.type or field.type is int and value < least:
            raise ValueError(f"{field.name} is {value!r}")


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a killed process left half written is dropped.

    Raises:
      UserError: another line is not one that training wrote; the message has its number.
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
        raise UserError(f"{path}, line {number} was not written by train: {what}; mend or remove that line.") from error


def write_config(directory: str | Path, info: RunInfo, experiment: config.Experiment) -> None:
    """Writes config.json, whole or not at all."""
    values = with_format({"info": dataclasses.asdict(info), "experiment": config.to_dict(experiment)})
    with atomic_write(Path(directory) / CONFIG) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


class MetricsWriter:
    """Appends to metrics.jsonl and TensorBoard, after dropping what was written past `step`.

    A run that was killed after step 70 and resumes from its checkpoint of step 50 so has each step once.
    """

    def __init__(self, directory: str | Path, *, step: int):
        """Opens the files of `directory`, keeping the lines up to and including `step`."""
        directory = Path(directory)
        self._directory, self._step = directory, step
        kept = [record for record in read_metrics(directory) if record["step"] <= step]
        with atomic_write(directory / METRICS) as file:
            file.write("".join(json.dumps(record) + "\n" for record in kept).encode())
        with _as_run_failed(directory):
            self._file = (directory / METRICS).open("a")

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes one record; `step` and `split` name it, every other number becomes a TensorBoard scalar."""
        with _as_run_failed(self._directory):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        group = "/".join(str(record[k]) for k in ("split", "parameters") if k in record)
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                self._events.add_scalar(f"{group}/{name}", value, record["step"])

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        if "_events" in vars(self):
            self._events.close()

    @functools.cached_property
    def _events(self) -> "SummaryWriter":
        # Not before the first record, when the devices have a step to do meanwhile: it imports PyTorch where there is
        # one, which takes seconds.
        from tensorboardX import SummaryWriter

        # The suffix, because tensorboardX names its file by the second and empties one of that name.
        suffix = f".{self._step:09d}"
        with _as_run_failed(self._directory):
            return SummaryWriter(
                str(self._directory / "tensorboard"), purge_step=self._step + 1, flush_secs=10, filename_suffix=suffix
            )


@contextlib.contextmanager
def _as_run_failed(directory: str | Path) -> Iterator[None]:
    """Turns an error of the file system into a RunFailed of one sentence."""
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"{directory} cannot be written: {error.strerror}; mend that and start the same command again."
        ) from error
