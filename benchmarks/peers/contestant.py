"""Contestant in its own process, which prepares a step and runs it for some seconds on each request."""

import collections
import json
import math
import time
from collections.abc import Iterable
from typing import Any, TextIO

from inception_jax.system import xla_flags
from peers.cases import COMPILED, OURS, Case
from peers.step import Contestant


def prepare(name: str, case: Case) -> Contestant:
    """Prepare the contestant of that name, importing only the libraries that it needs."""
    if name == OURS:
        xla_flags.set_flags()
        from peers import ours

        return ours.prepare(case)
    if name == "keras":
        from peers import on_keras

        return on_keras.prepare(case)
    if name.startswith("product-"):
        from peers import matmul

        return matmul.prepare(name.removeprefix("product-"), case)
    from peers import on_pytorch

    return on_pytorch.prepare(case, channels_last=name != "timm", compiled=name == COMPILED)


def serve(name: str, case: Case, seconds: float, requests: Iterable[str], answers: TextIO) -> None:
    """Answer once when prepared, then after a turn for each request, with a JSON object per line.

    An answer with the key `failed`, a sentence, is the last one.
    """

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        contestant = prepare(name, case)
        check(contestant.wait(contestant.launch()))  # compiles
        answer(**{name: getattr(contestant, name) for name in ("parameters", "multiply_adds", "device")})
        for _ in requests:
            # On a GPU the next step is launched while one runs; on a CPU that gains nothing.
            rate = turn(contestant, seconds, ahead=1 if case.device == "cuda" else 0)
            answer(rate=rate, peak_megabytes=contestant.peak_megabytes())
    except ModuleNotFoundError as error:
        answer(failed=f"{error.name} is not installed; see the top of compare_peers.py.")
    except Exception as error:  # The other contestants continue.
        lines = str(error).strip().splitlines() or [""]
        answer(failed=f"{type(error).__name__}: {lines[0][:300]}")


def turn(contestant: Contestant, seconds: float, *, ahead: int) -> float:
    """Measure a contestant's units per second.

    Args:
      contestant: the contestant to run.
      seconds: time after which no further step is launched.
      ahead: number of steps that may be launched before the current one has ended.
    """
    # The first step is not timed: caches and clocks are in the state that the others left.
    check(contestant.wait(contestant.launch()))
    begin, count = time.perf_counter(), 0
    launched: collections.deque[Any] = collections.deque()
    while True:
        launched.append(contestant.launch())
        count += 1
        if len(launched) > ahead:
            check(contestant.wait(launched.popleft()))
        if time.perf_counter() - begin >= seconds:
            break
    while launched:
        check(contestant.wait(launched.popleft()))
    return count * contestant.units / (time.perf_counter() - begin)


def check(number: float) -> None:
    """Raise ArithmeticError if a step's result is not finite, so that all contestants do the same work."""
    if not math.isfinite(number):
        raise ArithmeticError(f"the result of a step is {number}.")
