"""Probe of `benchmark startup`: runs `inception-jax train ...` up to its first step.

`python -m inception_jax.benchmark.startup_probe REPORT train ...` writes to REPORT, as JSON, when the imports began,
when the first step ended and the duration of each stage. The command is the real one; JAX reports when it traces,
lowers and compiles, and a few functions of this package are timed.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from inception_jax.cli import main
from inception_jax.system import xla_flags

_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling",
}


class Spans:
    """Named, possibly nested spans of time, by time.monotonic."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float, str]] = []

    def add(self, name: str, begin: float, end: float) -> None:
        """Adds a span, which may contain or lie within others but not partly overlap them."""
        self._spans.append((begin, end, name))

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Records the duration of the context as a span."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.add(name, begin, time.monotonic())

    def watch(self, module: Any, function: str, name: str) -> None:
        """Records every call of a module's function as a span."""
        setattr(module, function, self.span(name)(getattr(module, function)))

    def seconds(self) -> dict[str, float]:
        """Total time per name, excluding nested spans."""
        total: dict[str, float] = {}
        around: list[tuple[float, float, str]] = []
        for begin, end, name in sorted(self._spans, key=lambda span: (span[0], -span[1])):
            while around and around[-1][1] < end:
                around.pop()
            total[name] = total.get(name, 0.0) + end - begin
            if around:
                total[around[-1][2]] -= end - begin
            around.append((begin, end, name))
        return total


def run(report: Path, arguments: list[str]) -> int:
    """Runs the command up to its first step; returns its exit code."""
    spans, begin = Spans(), time.monotonic()
    with spans.span("imports"):
        xla_flags.set_flags()
        import jax.monitoring

        import inception_jax.train  # noqa: F401 (imported by the command)
        from inception_jax import build, steps

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event in _EVENTS:
            spans.add(_EVENTS[event], time.monotonic() - duration_secs, time.monotonic())

    jax.monitoring.register_event_duration_secs_listener(listen)
    spans.watch(build, "source", "data source")
    spans.watch(build, "initial_variables", "parameters")
    spans.watch(steps, "create_state", "parameters")
    spans.watch(steps, "place", "parameters")

    def first_step(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> None:
            with spans.span("first step"):
                jax.block_until_ready(step(*arguments))
            report.write_text(json.dumps({"begin": begin, "end": time.monotonic(), "seconds": spans.seconds()}))
            sys.exit()

        return call

    make = build.make_train_step
    setattr(build, "make_train_step", lambda *given: first_step(make(*given)))  # noqa: B010 (mypy: another signature)
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
