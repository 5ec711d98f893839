"""Ten steps under JAX's profiler, and where their time went.

The profiler writes what TensorBoard and XProf show. Its events name instructions of the compiled program, and the
program's text says what each was made of: `op_name` holds the path of the flax module and the operation. Seen on a CPU
only; on a GPU the events of the streams should name them likewise, and those that do not count as the rest.
"""

import collections
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

STEPS = 10
KINDS = ("convolutions", "bn", "pooling", "collectives", "rest", "host")
"""Of time. The classifier is a convolution; the rest are ReLU, sums, concatenations, colours, loss and optimiser; the
host's is that in which a device had nothing to do."""


class Instruction(NamedTuple):
    """One line of a program's text."""

    opcode: str
    op_name: str
    """What JAX called it; empty where a pass of XLA made it and did not say of what."""
    text: str
    """All that follows the opcode."""


class Event(NamedTuple):
    """Time that a device spent on an instruction, in nanoseconds."""

    device: tuple[str, int]
    begin: float
    end: float
    kind: str


def profile(launch: Callable[[], None], finish: Callable[[], Any], program: Any, directory: Path) -> dict[str, float]:
    """Writes a profile of ten steps into `directory` and returns the shares of their time, by `KINDS`; their sum is 1.

    From the beginning of the first instruction to the end of the last one, the mean over the devices. Instructions that
    run beside each other on one device share the time. Empty where the profile names no instruction of `program`.

    Args:
      launch: begins a step; it has been compiled.
      finish: waits for the steps that were begun.
      program: what `launch` runs, as `compile` returned it.
      directory: for plugins/profile/TIME/HOST.xplane.pb; made if need be.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Each call of a Python function would cost time, and the host seem slow.
    before = set(directory.rglob("*.xplane.pb"))
    with jax.profiler.trace(directory, profiler_options=options):
        for _ in range(STEPS):
            launch()
        finish()
    (written,) = set(directory.rglob("*.xplane.pb")) - before
    planes = jax.profiler.ProfileData.from_file(str(written)).planes
    return shares(list(events(planes, kinds(program.as_text()))))


def kinds(program: str) -> dict[str, str]:
    """What each instruction of a program's text is counted as.

    A fusion is counted as the first of convolution, collective, pooling and BN that is in it: a ReLU that is fused with
    the BN before it is BN. What has no name, such as the indices that XLA:CPU makes for the gradient of a maximum, is
    counted with what uses it.
    """
    instructions, computations, users = _read(program)

    @functools.cache
    def kind(name: str) -> str:
        parts = [instructions[name], *_contents(instructions[name], instructions, computations)]
        for candidate, test in _TESTS:
            if any(map(test, parts)):
                return candidate
        if any(part.op_name for part in parts) or name not in users:
            return "rest"
        return kind(users[name])

    # From the end, so that users are known before what they use, however long the chain.
    return {name: kind(name) for name in reversed(instructions)}


def events(planes: Iterable[Any], kind_of: dict[str, str]) -> Iterator[Event]:
    """The time that devices spent on instructions, from the planes of a profile.

    On a CPU an instruction may end long after the event that began it, when other threads have done its work: an event
    "end: ..." points back to it (`_c` is the consumer's end of a flow that `_p` began).
    """
    for plane in planes:
        begun, ends = [], {}
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                known = kind_of.get(stats.get("hlo_op", ""))
                if event.name.startswith("end: "):
                    ends[stats.get("_c")] = event.start_ns
                elif known or (plane.name.startswith("/device:") and line.name.startswith("Stream")):
                    device = (plane.name, stats.get("device_ordinal", 0))
                    flow = stats.get("_p")
                    begun.append((device, event.start_ns, event.end_ns, flow, known or "rest"))
        for device, begin, end, flow, kind in begun:
            yield Event(device, begin, max(end, ends.get(flow, end)), kind)


def shares(spent: list[Event]) -> dict[str, float]:
    """Each kind's share of the time from the first event to the last, the mean over the devices; sums to 1."""
    if not spent:
        return {}
    begin, end = min(event.begin for event in spent), max(event.end for event in spent)
    devices = {event.device for event in spent}
    total = dict.fromkeys(KINDS, 0.0)
    for device in devices:
        for kind, taken in _divide([event for event in spent if event.device == device], begin, end).items():
            total[kind] += taken / (end - begin) / len(devices)
    return total


def _divide(spent: list[Event], begin: float, end: float) -> dict[str, float]:
    """The time of one device by kind: every moment is divided by the events that go on in it."""
    changes = [(event.begin, 1, event.kind) for event in spent] + [(event.end, -1, event.kind) for event in spent]
    taken: dict[str, float] = collections.defaultdict(float)
    active: collections.Counter[str] = collections.Counter()
    now = begin
    for moment, change, kind in [*sorted(changes), (end, 0, "host")]:
        if count := active.total():
            for other, number in active.items():
                taken[other] += (moment - now) * number / count
        else:
            taken["host"] += moment - now
        active[kind] += change
        now = moment
    return taken


_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_COLLECTIVES = ("all-", "reduce-scatter", "collective-")


def _is_pooling(part: Instruction) -> bool:
    # XLA makes long sums of windows, too, but over other axes than height and width.
    unnamed = part.opcode == "reduce-window" and not part.op_name and re.search(r"size=1x\d+x\d+x1\b", part.text)
    return bool(unnamed) or "reduce_window" in part.op_name or "select_and_scatter" in part.op_name


_TESTS: tuple[tuple[str, Callable[[Instruction], bool]], ...] = (
    ("convolutions", lambda part: part.opcode in ("convolution", "dot")),
    ("collectives", lambda part: part.opcode.startswith(_COLLECTIVES)),
    ("pooling", _is_pooling),
    ("bn", lambda part: "/bn/" in part.op_name),
    # A library's call, or what brings numbers into the order that a convolution wants.
    ("convolutions", lambda part: "conv_general_dilated" in part.op_name or "dot_general" in part.op_name),
)


def _read(program: str) -> tuple[dict[str, Instruction], dict[str, list[str]], dict[str, str]]:
    """All instructions by name, the names in each computation, and what first uses each instruction."""
    instructions: dict[str, Instruction] = {}
    computations: dict[str, list[str]] = {}
    users: dict[str, str] = {}
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            names = computations.setdefault(header[1], [])
        elif found := _LINE.match(line):
            name, opcode, text = found.groups()
            op_name = _OP_NAME.search(text)
            instructions[name] = Instruction(opcode, op_name[1] if op_name else "", text)
            names.append(name)
            for operand in re.findall(r"%([\w.\-]+)", text):
                users.setdefault(operand, name)
    return instructions, computations, users


def _contents(
    part: Instruction, instructions: dict[str, Instruction], computations: dict[str, list[str]]
) -> list[Instruction]:
    called = _CALLED.search(part.text)
    return [instructions[name] for name in computations.get(called[1], [])] if called else []
