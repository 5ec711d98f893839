"""Processes of one run: joining them, and checking that they agree before the first step."""

import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from inception_jax.errors import UserError
from inception_jax.system.progress import say

# Seconds without a heartbeat after which a process is considered dead and the others exit, unless said otherwise.
_HEARTBEAT_TIMEOUT = 30

# Codes that process 0 broadcasts instead of a number.
_NONE, _ERROR = -1, -2


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    heartbeat_timeout: int | None = None,
) -> None:
    """Joins the other processes; without arguments JAX finds them on Cloud TPU, Slurm and GKE.

    Args:
      coordinator: HOST:PORT of process 0.
      processes: number of processes.
      process_id: index of this process, from 0.
      heartbeat_timeout: seconds without a heartbeat after which a process is considered dead and the others exit; 30
        by default.

    Raises:
      UserError: only some arguments are given, one is out of range, or the other processes cannot be found.
    """
    arguments = (coordinator, processes, process_id)
    if any(value is not None for value in arguments) and None in arguments:
        raise UserError("give all of --coordinator, --processes and --process-id, or none of them.")
    if processes is not None and process_id is not None and not 0 <= process_id < processes:
        raise UserError(f"--process-id is {process_id}; with {processes} processes it must be 0 to {processes - 1}.")
    if heartbeat_timeout is None:
        heartbeat_timeout = _HEARTBEAT_TIMEOUT
    if heartbeat_timeout < 1:
        raise UserError(f"--heartbeat-timeout is {heartbeat_timeout}; it must be 1 or more, in seconds.")
    try:
        jax.distributed.initialize(*arguments, heartbeat_timeout_seconds=heartbeat_timeout)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the other processes cannot be found: {reason.rstrip('.')}; except on Cloud TPU, Slurm and GKE, give "
            "--coordinator HOST:PORT --processes N --process-id I."
        ) from error


def on_process_zero(action: Callable[[], None]) -> None:
    """Runs `action` on process 0; a UserError is raised on every process, so that none hangs."""
    process_zero_decides(action)


def say_on_process_zero(line: str) -> None:
    """Prints a line to standard error, on process 0 only."""
    if jax.process_index() == 0:
        say(line)


def process_zero_decides(decide: Callable[[], int | None]) -> int | None:
    """Broadcasts the result of `decide` on process 0, None or an integer >= 0; a UserError is raised everywhere."""
    decision, failure = None, None
    if jax.process_index() == 0:
        try:
            decision = decide()
        except UserError as error:
            failure = error
    if jax.process_count() > 1:
        code = _ERROR if failure else _NONE if decision is None else decision
        code = int(multihost_utils.broadcast_one_to_all(np.int32(code)))
        decision = None if code == _NONE else code
        if code == _ERROR:
            failure = failure or UserError("process 0 failed; see its output.")
    if failure:
        raise failure
    return decision


def check_shared(directory: Path) -> None:
    """Raises UserError on every process unless all see the same `directory`, which is created."""
    if jax.process_count() == 1:
        return
    token, file = secrets.token_hex(16), directory / ".shared-by-all-hosts"
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        file.write_text(token)
    multihost_utils.sync_global_devices("token written")
    try:
        seen = file.read_text()
    except OSError:
        seen = ""
    tokens = _gather(token if jax.process_index() == 0 else seen)
    if jax.process_index() == 0:
        file.unlink()
    differing = [str(index) for index, other in enumerate(tokens) if other != tokens[0]]
    if differing:
        raise UserError(
            f"process 0 and process {', '.join(differing)} do not share {directory}; --workdir must be on a file "
            "system that all hosts share."
        )


def check_agreement(values: Mapping[str, Any]) -> None:
    """Raises UserError on every process, naming the differences, unless all have the same `values` (JSON)."""
    if jax.process_count() == 1:
        return
    gathered = [json.loads(text) for text in _gather(json.dumps(values))]
    differences = [
        f"{key} is {gathered[0].get(key)!r} on process 0 and {theirs.get(key)!r} on process {index}"
        for index, theirs in enumerate(gathered)
        for key in sorted(gathered[0].keys() | theirs.keys())
        if gathered[0].get(key) != theirs.get(key)
    ]
    if differences:
        raise UserError(f"the processes disagree: {', '.join(differences)}.")


def _gather(text: str) -> list[str]:
    """The text of every process, in order."""
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]
