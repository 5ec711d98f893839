"""A contestant in its own process: it prepares one step, then runs it for some seconds whenever it is told to."""

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
    """The contestant of that name; only its own libraries are imported."""
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


def serve(name: str, case: Case, seconds: float, orders: Iterable[str], answers: TextIO) -> None:
    """Answers once when prepared, then after a turn for each of the orders: JSON objects, one a line.

    An answer that has `failed`, a sentence, is the last.
    """

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        contestant = prepare(name, case)
        check(contestant.wait(contestant.launch()))  # compiles, where there is something to compile
        facts = ("parameters", "multiply_adds", "device")
        answer(**{fact: getattr(contestant, fact) for fact in facts})
        for _ in orders:
            # A GPU runs one step while the next is launched; a CPU has nothing to gain by that.
            rate = turn(contestant, seconds, ahead=1 if case.device == "cuda" else 0)
            answer(rate=rate, peak_megabytes=contestant.peak_megabytes())
    except ModuleNotFoundError as error:
        answer(failed=f"{error.name} is not installed; see the top of compare_peers.py.")
    except Exception as error:  # whatever stops one contestant, the others go on
        lines = str(error).strip().splitlines() or [""]
        answer(failed=f"{type(error).__name__}: {lines[0][:300]}")


def turn(contestant: Contestant, seconds: float, *, ahead: int) -> float:
    """Units a second, measured for about so long.

    Args:
      contestant: whose turn it is.
      seconds: no step is begun after them.
      ahead: steps that may be launched before the one at hand has ended.
    """
    # Not measured: caches and clocks are as the others left them.
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
    """Raises ArithmeticError where a step's result is not finite: it would not be the same work."""
    if not math.isfinite(number):
        raise ArithmeticError(f"the result of a step is {number}.")
