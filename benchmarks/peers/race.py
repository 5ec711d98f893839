"""Race between contestants, each a process, that take turns in every round."""

import contextlib
import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


class Failed(Exception):
    """A contestant failed; the message is one sentence."""


class Worker:
    """A process that prints a JSON object per line: one when prepared, then one per line of input."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        self._stderr = tempfile.TemporaryFile("w+")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._stderr, text=True, env={**os.environ, **environment}
        )

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer; raises Failed if it reports a failure, or if the process has ended."""
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            ended = f"killed by signal {-code}, perhaps for lack of memory" if code < 0 else f"exited with {code}"
            raise Failed(f"{ended}: {self._last_line()}")
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def turn(self) -> dict[str, Any]:
        """Let the contestant run for one turn and wait for its answer."""
        with contextlib.suppress(BrokenPipeError):  # `answer` reports why the process ended.
            print(file=self._process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def _last_line(self) -> str:
        self._stderr.seek(0)
        return (self._stderr.read().strip().splitlines() or ["no output."])[-1][:300]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Outcome of a race."""

    facts: dict[str, dict[str, Any]]
    """Metadata of each contestant, with its peak memory after the last turn."""
    rates: dict[str, list[float]]
    """Units per second of each contestant by round."""
    failures: dict[str, str]
    """Messages of the contestants that failed; these have no rates."""


def race(commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], rounds: int) -> Outcome:
    """Start all contestants one by one, then let each run once per round while the others wait.

    Every round starts with another contestant.
    """
    outcome = Outcome({}, {}, {})
    with contextlib.ExitStack() as running:
        workers: dict[str, Worker] = {}

        def attempt(name: str, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
            try:
                return action()
            except Failed as error:
                outcome.failures[name] = str(error)
                outcome.rates.pop(name, None)
                workers.pop(name).close()
                return {}

        for name, command in commands.items():
            workers[name] = Worker(command, environment)
            running.callback(workers[name].close)
            outcome.facts[name] = attempt(name, workers[name].answer)
        outcome.rates.update({name: [] for name in workers})
        for name in rotated(list(workers), rounds):
            if name in workers and (answer := attempt(name, workers[name].turn)):
                outcome.rates[name].append(answer.pop("rate"))
                outcome.facts[name].update(answer)
    return outcome


def rotated(names: Sequence[str], rounds: int) -> Iterator[str]:
    """Order of the turns: abc, bca, cab, abc, ..."""
    for number in range(rounds):
        first = number % len(names) if names else 0
        yield from [*names[first:], *names[:first]]
