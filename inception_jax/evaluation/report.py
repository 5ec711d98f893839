"""Report of an evaluation, as JSON values and as a table like the paper's Tables 2-5 (arXiv 1602.07261)."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inception_jax.data.sources import list_names
from inception_jax.errors import UserError
from inception_jax.evaluation import results
from inception_jax.evaluation.classes import SoftmaxOver
from inception_jax.evaluation.predictions import Images, Model, Predictions

# Top-1 and top-5 error in percent, by crops: Tables 2, 3 and 4.
_PAPER = {
    "inception_v3": {1: (21.2, 5.6), 12: (19.8, 4.6), 144: (18.9, 4.3)},
    "inception_resnet_v1": {1: (21.3, 5.5), 12: (19.8, 4.6), 144: (18.8, 4.3)},
    "inception_v4": {1: (20.0, 5.0), 12: (18.7, 4.2), 144: (17.7, 3.8)},
    "inception_resnet_v2": {1: (19.9, 4.9), 12: (18.7, 4.1), 144: (17.8, 3.7)},
}
# Table 5, at 144 crops.
_PAPER_ENSEMBLE, _PAPER_ENSEMBLE_ERRORS = {"inception_v4": 1, "inception_resnet_v2": 3}, (16.4, 3.1)

_IMAGENET = 50_000
_NOT_BLACKLISTED = 48_238


def summarize(predictions: Predictions, softmax: SoftmaxOver = "all") -> dict[str, Any]:
    """Summarises predictions as JSON values.

    Args:
      predictions: the predictions.
      softmax: "all" classes, or those "present" in the images.

    Returns:
      The number of images; `softmax`, `classes` that it runs over, `network_classes` and `present_classes`, all three
      numbers; the fields of `Images`; `models`, each with the fields of `Model` and
      `results.Result`; and `ensemble`, the `results.Result` of all together, None for a single model. Their
      `paper_top1_error` and `paper_top5_error` are None unless the paper reports that network, crops and images.
    """
    network_classes, present = predictions.probabilities.shape[2], np.unique(predictions.labels)
    if softmax == "present":
        predictions = _over(predictions, present)
    images, counted = predictions.images, len(predictions.labels)
    classes = predictions.probabilities.shape[2]
    papers = [_paper(model, images, classes, counted) for model in predictions.models]
    alone = [results.measure(probabilities, predictions.labels) for probabilities in predictions.probabilities]
    models = [
        {**dataclasses.asdict(model), "name": model.name, **dataclasses.asdict(result), **_paper_errors(paper)}
        for model, result, paper in zip(predictions.models, alone, papers, strict=True)
    ]
    joint = None
    if len(models) > 1:
        paper = _PAPER_ENSEMBLE_ERRORS if all(papers) and _is_papers_ensemble(predictions.models) else None
        joint = {**dataclasses.asdict(results.ensemble(predictions)), **_paper_errors(paper)}
    return {
        "images": counted,
        "softmax": softmax,
        "classes": classes,
        "network_classes": network_classes,
        "present_classes": len(present),
        **dataclasses.asdict(images),
        "models": models,
        "ensemble": joint,
    }


def _over(predictions: Predictions, classes: np.ndarray) -> Predictions:
    """The predictions with softmax over some classes only: int [fewer], ascending, among them all labels."""
    if len(classes) < 2:
        raise UserError(
            f"all images of {predictions.images.source} are of one class, over which a softmax says nothing; use "
            "--classes all."
        )
    kept = predictions.probabilities[:, :, classes]
    total = kept.sum(axis=2, keepdims=True)
    # Where all of them underflowed to zero they are equal, and count as errors.
    probabilities = np.divide(kept, total, out=np.zeros_like(kept), where=total > 0)
    names = tuple(predictions.class_names[i] for i in classes) if predictions.class_names else ()
    labels = np.searchsorted(classes, predictions.labels).astype(np.int32)
    return dataclasses.replace(predictions, labels=labels, probabilities=probabilities, class_names=names)


def _paper(model: Model, images: Images, classes: int, counted: int) -> tuple[float, float] | None:
    """The paper's errors, if it reports this network at full size, with these crops, on all of these images."""
    network = model.network
    as_drawn = network["width"] == 1 and network["depths"] is None and model.image_size == 299 and not model.scales
    # These numbers of images and classes identify ImageNet.
    all_of_them = _NOT_BLACKLISTED if model.crops == 1 else _IMAGENET
    imagenet = (images.of, classes, counted) == (_IMAGENET, 1000, all_of_them)
    return _PAPER.get(network["name"], {}).get(model.crops) if as_drawn and imagenet else None


def _is_papers_ensemble(models: Sequence[Model]) -> bool:
    names = Counter(model.network["name"] for model in models)
    return names == _PAPER_ENSEMBLE and all(model.crops == 144 for model in models)


def _paper_errors(percent: tuple[float, float] | None) -> dict[str, float | None]:
    top1, top5 = percent or (None, None)
    return {"paper_top1_error": top1 and top1 / 100, "paper_top5_error": top5 and top5 / 100}


def markdown(summary: Mapping[str, Any]) -> str:
    """Markdown table of a result of `summarize`, below a sentence on the images."""
    models, joint = summary["models"], summary["ensemble"]
    rows = [_row(model["name"], str(model["views"]), model) for model in models]
    if joint:
        crops = sorted({model["views"] for model in models})
        rows.append(_row(f"ensemble of {len(models)}", ", ".join(map(str, crops)), joint))
    header = ["network", "crops", "top-1 error, %", "top-5 error, %", "loss", "paper, top-1 / top-5"]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join([_counts(summary), "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def _counts(summary: Mapping[str, Any]) -> str:
    parts = [f"{summary['images']:,} of {summary['of']:,} images of {summary['source']}"]
    if summary["exclude_list"]:
        parts.append(f"{summary['excluded']:,} excluded by {summary['exclude_list']}")
    if summary["skipped"]:
        parts.append(f"{summary['skipped']:,} skipped as broken")
    if summary["unknown"]:
        unknown = list_names("class", summary["unknown_classes"])
        parts.append(f"{summary['unknown']:,} of {unknown} left out, not known to the networks")
    return f"{'; '.join(parts)}. {_softmax(summary)} In brackets: 95 % intervals (Wilson)."


def _softmax(summary: Mapping[str, Any]) -> str:
    """Sentences on the classes: which the softmax runs over, and which networks were matched by number."""
    known, present = summary["network_classes"], summary["present_classes"]
    if summary["softmax"] == "present":
        sentence = f"Softmax over the {present:,} present of {known:,} classes."
    else:
        sentence = f"Softmax over all {known:,} classes{f', of which {present:,} are present' * (present < known)}."
    numbered = [model["name"] for model in summary["models"] if model["matched_by"] == "number"]
    return sentence + f" Classes matched by number, not by name: {', '.join(numbered)}." * bool(numbered)


def _row(name: str, crops: str, summary: Mapping[str, Any]) -> list[str]:
    paper = summary["paper_top1_error"], summary["paper_top5_error"]
    return [
        name.replace("|", "\\|"),
        crops,
        _percent(summary["top1_error"], summary["top1_interval"]),
        _percent(summary["top5_error"], summary["top5_interval"]),
        "—" if summary["loss"] is None else f"{summary['loss']:.4f}",
        f"{paper[0]:.1%} / {paper[1]:.1%}".replace("%", "") if paper[0] else "",
    ]


def _percent(error: float | None, interval: tuple[float, float] | None) -> str:
    if error is None or interval is None:
        return "—"
    return f"{100 * error:.2f} [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"
