"""The error of a network on the validation images: each image counted exactly once."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from inception_jax import build, checkpoint, config, steps
from inception_jax.errors import UserError


def evaluate(
    step: Callable[..., Any], params: Any, batch_stats: Any, batches: Iterable[Mapping[str, Any]]
) -> dict[str, float]:
    """Means over the images of `batches`: loss, top1_error, top5_error, zero_share.

    And two numbers: `images`, those that were counted, and `skipped_images`, the broken ones that were left out.
    `step` is `build.evaluate_step(model)`, compiled or not.
    """
    # Sums are fetched one step late, so that the device always has the next batch. They are added in float64: float32
    # stops counting at 2 ** 24.
    total: dict[str, float] = {}
    pending = None
    for batch in batches:
        sums = step(params, batch_stats, batch)
        _add(total, pending)
        pending = sums
    _add(total, pending)
    images, skipped = int(total.pop("images")), int(total.pop("skipped_images"))
    if not images:
        raise UserError(f"there is no image to evaluate: {skipped} were skipped as broken.")
    means = {name: value / images for name, value in total.items()}
    return {"images": images, "skipped_images": skipped, **means}


def evaluate_checkpoint(path: str | Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Evaluates a run's newest checkpoint, or the one that RUN/checkpoints/STEP names, on the validation images.

    Args:
      path: of the run or the checkpoint.
      overrides: fields of `DataConfig` and `EvaluationConfig` to use instead of the run's own, by name.

    Returns:
      `checkpoint`, `step`, `model`, `images` and, for the `averaged` and the `raw` parameters, what `evaluate` returns.
    """
    saved = checkpoint.read(path)
    experiment = _override(saved.experiment, overrides or {})
    config.check(experiment)
    images = build.source(experiment, "validation")
    if len(images.class_names) > (experiment.model.num_classes or 0):
        raise UserError(
            f"{experiment.data.source} has {len(images.class_names)} classes, but the network of {path} knows "
            f"{experiment.model.num_classes}."
        )
    network = build.model(experiment)
    state = steps.place(saved.state(build.state_shapes(experiment, network)))
    run_step = build.evaluate_step(network)
    results: dict[str, Any] = {"checkpoint": str(path), "step": saved.step, "model": experiment.model.name}
    for name, params in steps.parameter_sets(state).items():
        with contextlib.closing(build.validation_batches(experiment, images)) as batches:
            results[name] = evaluate(run_step, params, state.batch_stats, batches)
    return {**results, "images": results["raw"]["images"]}


def _override(experiment: config.Experiment, overrides: Mapping[str, Any]) -> config.Experiment:
    def updated(part: Any) -> Any:
        names = {f.name for f in dataclasses.fields(part)}
        return dataclasses.replace(part, **{k: v for k, v in overrides.items() if k in names})

    return dataclasses.replace(experiment, data=updated(experiment.data), evaluation=updated(experiment.evaluation))


def _add(total: dict[str, float], sums: Mapping[str, jax.Array] | None) -> None:
    for name, value in (sums or {}).items():
        total[name] = total.get(name, 0.0) + float(np.asarray(value))


def table(results: Mapping[str, Any]) -> str:
    """What `evaluate_checkpoint` found, as text."""
    skipped = results["raw"]["skipped_images"]
    lines = [f"{results['model']}, step {results['step']}, {results['images']:,} images"]
    lines[0] += f", {skipped:,} skipped as broken" if skipped else ""
    lines.append(f"{'parameters':<12}{'loss':>10}{'top-1 error':>14}{'top-5 error':>14}")
    for name in ("averaged", "raw"):
        r = results[name]
        lines.append(f"{name:<12}{r['loss']:>10.4f}{r['top1_error']:>14.2%}{r['top5_error']:>14.2%}")
    return "\n".join(lines)
