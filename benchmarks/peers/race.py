"""Contestants in processes of their own, which run one after the other, round by round."""

import contextlib
import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


class Failed(Exception):
    """A contestant is out of the race; the message is one sentence."""


class Worker:
    """A process that answers lines with JSON objects, a line each: the first when it is prepared."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        """Starts it."""
        self._said = tempfile.TemporaryFile("w+")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._said, text=True, env={**os.environ, **environment}
        )

    def answer(self) -> dict[str, Any]:
        """The next answer; raises Failed for one that says so, or when there is none because the process has ended."""
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            ended = f"killed by signal {-code}, as for want of memory" if code < 0 else f"ended with {code}"
            raise Failed(f"{ended}: {self._last_words()}")
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def turn(self) -> dict[str, Any]:
        """Lets it run, alone, and waits for its answer."""
        with contextlib.suppress(BrokenPipeError):  # an answer is missing then, which says more
            print(file=self._process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        """Ends the process, which gives back its memory."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def _last_words(self) -> str:
        self._said.seek(0)
        return (self._said.read().strip().splitlines() or ["nothing was said."])[-1][:300]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Outcome of a race."""

    facts: dict[str, dict[str, Any]]
    """Metadata of each contestant, and the memory of its last turn."""
    rates: dict[str, list[float]]
    """Units a second of each, one a round."""
    failures: dict[str, str]
    """Reasons of the contestants that failed, which have no rates."""


def race(commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], rounds: int) -> Outcome:
    """Starts all contestants one by one, then lets each run once a round, while the others wait.

    Every round begins with another of them, so that none always comes after the same one.
    """
    outcome = Outcome({}, {}, {})
    with contextlib.ExitStack() as running:
        workers: dict[str, Worker] = {}

        def attempt(name: str, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
            try:
                return ask()
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
    """The order of the turns: abc, bca, cab, abc, ..."""
    for number in range(rounds):
        first = number % len(names) if names else 0
        yield from [*names[first:], *names[:first]]
