"""comparison.csv, with a row for each run, and comparison.json, with every number of the report."""

import csv
import dataclasses
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inception_jax.compare.claims import Pairing, Verdict
from inception_jax.compare.final_error import FinalError
from inception_jax.compare.runs_to_groups import Curve, Group
from inception_jax.compare.statistics import Estimate, Interval
from inception_jax.compare.time_to_error import COSTS, CostToTarget, TargetComparison
from inception_jax.config import learning_rate


def summary_row(curve: Curve, label: str) -> dict[str, Any]:
    """Row of a run in comparison.csv.

    Errors are fractions, of the averaged parameters unless named raw. `final` is the last evaluation so far, `best` the
    earliest one with the minimum error; None means unknown, or for top-5 errors that there are fewer than six classes.
    """
    info, experiment, metrics = curve.run.info, curve.run.experiment, curve.run.metrics
    final, raw = curve.averaged[-1], curve.raw[-1] if curve.raw else {}
    best1 = min(curve.averaged, key=lambda record: record["top1_error"])
    best5 = min(curve.averaged, key=lambda record: record["top5_error"]) if "top5_error" in final else {}
    speeds = [
        m["images_per_second"] for m in metrics if m["split"] == "train" and m.get("images_per_second") is not None
    ]
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
        "learning_rate": learning_rate(experiment.optim, experiment.train.batch_size),
        "steps": metrics[-1]["step"],
        "steps_planned": info.steps,
        "epochs": metrics[-1]["epoch"],
        "final_epoch": final["epoch"],
        "final_top1_error": final["top1_error"],
        "best_top1_error": best1["top1_error"],
        "best_top1_epoch": best1["epoch"],
        "final_top5_error": final.get("top5_error"),
        "best_top5_error": best5.get("top5_error"),
        "best_top5_epoch": best5.get("epoch"),
        "final_raw_top1_error": raw.get("top1_error"),
        "final_raw_top5_error": raw.get("top5_error"),
        "wall_seconds": metrics[-1]["seconds"],
        "images_per_second": statistics.median(speeds) if speeds else None,
        "training_images": info.training_images,
        "validation_images": info.validation_images,
    }


def as_csv(groups: Sequence[Group]) -> str:
    """Contents of comparison.csv, a row for each run."""
    rows = [summary_row(curve, group.run_label(curve)) for group in groups for curve in group.curves]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def directories_in(path: Path) -> set[Path]:
    """The directories of the runs in a comparison.csv, absolute; none where it is missing or another table."""
    try:
        with path.open(newline="") as file:
            return {Path(row["directory"]).resolve() for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return set()


def as_json(verdicts: Sequence[Verdict], pairings: Sequence[Pairing]) -> str:
    """Contents of comparison.json. Errors are fractions; null means unknown, or infinite in an interval."""
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
        "races": [
            {"level": by_cost[0].target, **{c.cost.name: _target_comparison(c) for c in by_cost}}
            for by_cost in pairing.target_comparisons
        ],
        "differences": [_final_error(final_error) for final_error in pairing.final_errors],
    }


def _factor(found: Estimate | None) -> dict[str, Any] | None:
    if found is None:
        return None
    ends = None if found.interval is None else [math.exp(end) for end in found.interval]
    return {"mean": math.exp(found.mean), "interval": ends, "p": found.p, "seeds": found.seeds}


def _target_comparison(comparison: TargetComparison) -> dict[str, Any]:
    def side(cost: CostToTarget, interval: Interval | None) -> dict[str, Any]:
        return {"median": cost.value if cost.reached else None, "at_least": cost.value, "interval": interval}

    return {
        "pure": side(comparison.costs.pure, comparison.pure),
        "residual": side(comparison.costs.residual, comparison.residual),
        "speed_up": {
            "ratio": comparison.costs.ratio,
            "words": comparison.costs.speed_up,
            "interval": comparison.speed_up,
        },
    }


def _final_error(final_error: FinalError) -> dict[str, Any]:
    return {
        "error": final_error.error,
        "at_equal": final_error.cost.name,
        "spent": final_error.budget,
        "pure": final_error.pure,
        "residual": final_error.residual,
        "difference": dataclasses.asdict(final_error.difference),
        "paired": final_error.paired,
    }


def _finite(value: Any) -> Any:
    """Copy of a nested value with None for numbers that JSON cannot express: NaN and infinities."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
