"""Errors of probabilities, of one model or of an ensemble."""

import dataclasses
import math

import numpy as np

from inception_jax.evaluation.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class Result:
    """Top-1 and top-5 error, as fractions of the images, and loss."""

    top1_error: float
    top1_interval: tuple[float, float]
    """Wilson's 95 % interval."""
    top5_error: float | None
    """None for up to five classes, all of which are among the first five."""
    top5_interval: tuple[float, float] | None
    loss: float | None
    """Mean of -log of the true class's probability; None if it is not finite."""


def ensemble(predictions: Predictions) -> Result:
    """Result of the mean of all models' probabilities, weighted equally whatever their number of crops."""
    return measure(np.mean(predictions.probabilities, axis=0), predictions.labels)


def measure(probabilities: np.ndarray, labels: np.ndarray) -> Result:
    """Result of probabilities [N, C] for true labels [N]."""
    ranks = rank(probabilities, labels)
    true_probability = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    # The smallest normal number stands for 0, whose logarithm is infinite. NaN stays NaN.
    loss = float(np.mean(-np.log(np.maximum(true_probability, np.finfo(np.float32).tiny), dtype=np.float64)))
    top1_errors, top5_errors, images = int(np.sum(ranks >= 1)), int(np.sum(ranks >= 5)), len(labels)
    more_than_five = probabilities.shape[1] > 5
    return Result(
        top1_error=top1_errors / images,
        top1_interval=interval(top1_errors, images),
        top5_error=top5_errors / images if more_than_five else None,
        top5_interval=interval(top5_errors, images) if more_than_five else None,
        loss=loss if math.isfinite(loss) else None,
    )


def rank(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rank of the true class (0 is top-1 correct), [N, C] and [N] -> int [N]; ties and NaN count as errors.

    Differs from `steps.rank`, which ranks logits: float32 probabilities below 1e-38 are 0 and so ties. That counts only
    where fewer than five classes are above it.
    """
    truth = np.take_along_axis(probabilities, labels[:, None], axis=1)
    return probabilities.shape[1] - 1 - np.sum(probabilities < truth, axis=1)


def interval(wrong: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of the fraction `wrong` / `images`."""
    from scipy import stats  # here because it is slow to import

    found = stats.binomtest(wrong, images).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)
