"""Measured cases: summary of their rates, the file format, and the tables."""

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_jax.errors import UserError
from inception_jax.system.atomic import atomic_write
from peers.cases import COMPILED, LAYOUTS, OURS, PRODUCTS

Record = dict[str, Any]
"""A measured case: the fields of its Case; rounds and seconds; rates, facts and failures of the race; summary; and
machine, versions, command and measured (the time)."""

LIBRARIES = ("inception_jax", "jax", "jaxlib", "flax", "numpy", "torch", "timm", "facenet-pytorch", "keras")
TITLES = {
    OURS: "ours",
    "timm": "timm NCHW",
    "timm-channels-last": "timm NHWC",
    COMPILED: "timm compiled",
    "keras": "Keras",
}
# Contestants that ours is compared with.
_VERSUS = {"better_layout": "better layout", COMPILED: "compiled", "keras": "Keras"}
# Fields of a case, and fields keyed by contestant, which together include all of them.
_CASE = ("device", "dtype", "mode", "model", "image_size", "batch_size")
_RACE = ("rates", "failures")


def summarize(mode: str, rates: Mapping[str, Sequence[float]], facts: Mapping[str, Mapping[str, Any]]) -> Record:
    """Summarise the rates of the rounds.

    Args:
      mode: infer or train; a training step counts as three forward passes.
      rates: images per second of each contestant by round; for matrix products, operations per second.
      facts: metadata of each contestant; only ours has multiply-adds.

    Returns:
      `limit`, the median over rounds of the faster matrix product, in operations per second; `better_layout`, the
      faster of PyTorch's two; and for each contestant `images_per_second`, `least`, `greatest`, `ratio` (ours / its
      own, median over rounds), `operations_per_second` and `share` (fraction of the limit, median over rounds). Values
      that need a failed contestant are missing.
    """
    limits = [max(turn) for turn in zip(*(rates[name] for name in PRODUCTS if name in rates), strict=True)]
    summary: Record = {"limit": statistics.median(limits)} if limits else {}
    layouts = [name for name in LAYOUTS if name in rates]
    if layouts:
        summary["better_layout"] = max(layouts, key=lambda name: statistics.median(rates[name]))
    multiply_adds = facts.get(OURS, {}).get("multiply_adds")
    operations = 2 * multiply_adds * (3 if mode == "train" else 1) if multiply_adds else None
    for name in rates.keys() - set(PRODUCTS):
        row = {"images_per_second": statistics.median(rates[name])}
        row |= {"least": min(rates[name]), "greatest": max(rates[name])}
        if OURS in rates:
            row["ratio"] = _median_ratio(rates[OURS], rates[name])
        if operations:
            row["operations_per_second"] = operations * row["images_per_second"]
        if operations and limits:
            row["share"] = operations * _median_ratio(rates[name], limits)
        summary[name] = row
    return summary


def read(path: Path) -> list[Record]:
    """Read the records of a file written by `write`; none if there is no file."""
    try:
        records = json.loads(path.read_text())["cases"]
        return records if all({*_CASE, *_RACE} <= set(record) for record in records) else _not_ours(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        return _not_ours(path)


def _not_ours(path: Path) -> Any:
    raise UserError(f"{path} was not written by compare_peers.py; give --out or --table another file.")


def join(records: Iterable[Record], more: Iterable[Record]) -> list[Record]:
    """Merge records in the order of the tables; a case measured again with the same contestants is replaced."""
    by_race = {_race(record): record for record in [*records, *more]}
    return [by_race[race] for race in sorted(by_race)]


def _race(record: Record) -> tuple[Any, ...]:
    """Key of a record: its case and contestants."""
    contestants = tuple(sorted(name for field in _RACE for name in record[field]))
    return (*(record[field] for field in _CASE), contestants)


def write(path: Path, records: Sequence[Record]) -> None:
    """Write the records as a JSON object, atomically."""
    with atomic_write(path) as file:
        file.write(json.dumps({"cases": records}, indent=1).encode() + b"\n")


def machine() -> dict[str, Any]:
    """Number of cores available to this process, CPU and operating system."""
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    return {"cores": len(os.sched_getaffinity(0)), "cpu": name, "system": f"{platform.system()} {platform.machine()}"}


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def tables(records: Sequence[Record]) -> str:
    """Markdown tables, one for each mode, dtype and device, followed by notes."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault((record["mode"], record["dtype"], record["device"]), []).append(record)
    parts = [_table(f"{mode}, {dtype} on {device}", group) for (mode, dtype, device), group in groups.items()]
    return "\n\n".join([*parts, "\n".join(_notes(records))])


def _table(title: str, records: Sequence[Record]) -> str:
    names = [name for name in TITLES if any(name in record["summary"] for record in records)]
    versus = [name for name in _VERSUS if any(name in record["summary"] for record in records)]
    sides = " / ".join(["ours", *(_VERSUS[name] for name in versus)])
    head = ["model", "batch", "size", *(f"{TITLES[name]}, images/s" for name in names)]
    head += [*(f"ours / {_VERSUS[name]}" for name in versus), f"fraction of matmul: {sides}", f"MB: {sides}"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *(_row(record, names, versus) for record in records)]
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(row)} |" for row in rows)])


def _row(record: Record, names: Sequence[str], versus: Sequence[str]) -> list[str]:
    summary = record["summary"]
    others = [summary.get("better_layout") if name == "better_layout" else name for name in versus]
    sides = [OURS, *others]
    fractions = (_number(summary.get(name, {}).get("share"), "{:.0%}") for name in sides)
    memory = (_number(record["facts"].get(name, {}).get("peak_megabytes"), "{:,.0f}") for name in sides)
    return [
        *(str(record[field]) for field in ("model", "batch_size", "image_size")),
        *(_rate(summary.get(name)) for name in names),
        *(_number(summary.get(name, {}).get("ratio"), "{:.2f}") for name in others),
        " / ".join(fractions),
        " / ".join(memory),
    ]


def _notes(records: Sequence[Record]) -> list[str]:
    notes = ["Median (minimum to maximum) over rounds; a ratio is the median of the rounds' ratios."]
    if any(record["model"] == "inception_resnet_v1_facenet" for record in records):
        notes.append("For inception_resnet_v1_facenet the timm columns are facenet-pytorch.")
    for record in records:
        case = f"{record['mode']} {record['model']}, batch {record['batch_size']} at {record['image_size']}"
        notes += [f"{case}: {TITLES.get(name, name)}: {why}" for name, why in record["failures"].items()]
    notes += _unique(_parameters(record) for record in records)
    devices = sorted({fact["device"] for record in records for fact in record["facts"].values() if "device" in fact})
    limits = [record["summary"]["limit"] / 1e9 for record in records if "limit" in record["summary"]]
    if limits:
        notes.append(f"Matrix products reach {min(limits):,.0f} to {max(limits):,.0f} GFLOP/s ({', '.join(devices)}).")
    notes += _unique("{cores} cores, {cpu}, {system}.".format(**record["machine"]) for record in records)
    notes += _unique(", ".join(f"{n} {v}" for n, v in record["versions"].items()) + "." for record in records)
    notes += _unique(f"{record['measured'][:10]}: `{record['command']}`" for record in records)
    return [f"- {note}" for note in notes]


def _parameters(record: Record) -> str:
    """Note if a contestant has another number of parameters than ours; else empty."""
    counts = {name: fact["parameters"] for name, fact in record["facts"].items() if fact.get("parameters")}
    others = [f"{TITLES[name]} {count:,}" for name, count in counts.items() if count != counts.get(OURS, count)]
    return f"{record['model']} has {counts[OURS]:,} parameters, but {', '.join(others)}." if others else ""


def _median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _rate(row: Mapping[str, float] | None) -> str:
    if row is None:
        return "-"
    median, low, high = (f"{row[key]:,.3g}" for key in ("images_per_second", "least", "greatest"))
    return f"{median} ({low} to {high})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _unique(notes: Iterable[str]) -> list[str]:
    return [note for note in dict.fromkeys(notes) if note]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
