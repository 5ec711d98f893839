"""What comparison.csv and comparison.json hold: a line for each run, and every number of the report."""

import csv
import dataclasses
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from inception_jax.compare.curves import Curve
from inception_jax.compare.endings import Ending
from inception_jax.compare.groups import Group
from inception_jax.compare.intervals import Estimate, Interval
from inception_jax.compare.pairings import Pairing
from inception_jax.compare.races import COSTS, Heat, Spent
from inception_jax.compare.verdicts import Verdict


def summary_row(curve: Curve, label: str) -> dict[str, Any]:
    """A run's line of comparison.csv.

    Errors are fractions, of the averaged parameters unless they say raw. Final is the last evaluation so far, best
    the earliest with the least error. None is not known.
    """
    info, experiment, metrics = curve.run.info, curve.run.experiment, curve.run.metrics
    final, raw = curve.averaged[-1], curve.raw[-1] if curve.raw else {}
    best1 = min(curve.averaged, key=lambda record: record["top1_error"])
    best5 = min(curve.averaged, key=lambda record: record["top5_error"])
    speeds = [m["images_per_second"] for m in metrics if m["split"] == "train" and "images_per_second" in m]
    return {
        "label": label,
        "directory": str(curve.run.directory),
        "run": info.name,
        "model": curve.model,
        "kind": "residual" if curve.residual else "pure",
        "seed": experiment.seed,
        "parameters": info.parameters,
        "multiply_adds": info.multiply_adds,
        "batch_size": experiment.train.batch_size,
        "learning_rate": experiment.optim.learning_rate,
        "steps": metrics[-1]["step"],
        "steps_planned": info.steps,
        "epochs": metrics[-1]["epoch"],
        "final_epoch": final["epoch"],
        "final_top1_error": final["top1_error"],
        "best_top1_error": best1["top1_error"],
        "best_top1_epoch": best1["epoch"],
        "final_top5_error": final["top5_error"],
        "best_top5_error": best5["top5_error"],
        "best_top5_epoch": best5["epoch"],
        "final_raw_top1_error": raw.get("top1_error"),
        "final_raw_top5_error": raw.get("top5_error"),
        "wall_seconds": metrics[-1]["seconds"],
        "images_per_second": statistics.median(speeds) if speeds else None,
        "training_images": info.training_images,
        "validation_images": info.validation_images,
    }


def as_csv(groups: Sequence[Group]) -> str:
    """A line for each run."""
    rows = [summary_row(curve, group.run_label(curve)) for group in groups for curve in group.curves]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(verdicts: Sequence[Verdict], pairings: Sequence[Pairing]) -> str:
    """Verdicts and pairs. Errors are fractions; null is not known, or in an interval infinite."""
    values = {
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
        "pairs": [_pairing(pairing) for pairing in pairings],
    }
    return json.dumps(_finite(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _pairing(pairing: Pairing) -> dict[str, Any]:
    speed_ups = {cost.name: pairing.log_speed_up(cost) for cost in COSTS}
    return {
        "pure": pairing.pure.label,
        "residual": pairing.residual.label,
        "reasons": pairing.reasons,
        "seeds": pairing.seeds,
        "speed_up": {name: _factor(found) for name, found in speed_ups.items()},
        "races": [{"level": heats[0].level, **{h.cost.name: _heat(h) for h in heats}} for heats in pairing.heats],
        "differences": [_ending(ending) for ending in pairing.endings],
    }


def _factor(found: Estimate | None) -> dict[str, Any] | None:
    if found is None:
        return None
    ends = None if found.interval is None else [math.exp(end) for end in found.interval]
    return {"mean": math.exp(found.mean), "interval": ends, "p": found.p, "seeds": found.seeds}


def _heat(heat: Heat) -> dict[str, Any]:
    def side(spent: Spent, interval: Interval | None) -> dict[str, Any]:
        return {"median": spent.value if spent.reached else None, "at_least": spent.value, "interval": interval}

    return {
        "pure": side(heat.race.pure, heat.pure),
        "residual": side(heat.race.residual, heat.residual),
        "speed_up": {"ratio": heat.race.ratio, "words": heat.race.speed_up, "interval": heat.speed_up},
    }


def _ending(ending: Ending) -> dict[str, Any]:
    return {
        "error": ending.error,
        "at_equal": ending.cost.name,
        "spent": ending.budget,
        "pure": ending.pure,
        "residual": ending.residual,
        "difference": dataclasses.asdict(ending.difference),
        "paired": ending.paired,
    }


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no word for."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
