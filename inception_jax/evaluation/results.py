"""Errors from probabilities: of each model, and of all together as an ensemble."""

import dataclasses
import math

import numpy as np

from inception_jax.evaluation.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class Result:
    """Top-1 and top-5 error, as fractions of the images, and the loss."""

    top1_error: float
    top1_interval: tuple[float, float]
    """95 %, Wilson's."""
    top5_error: float | None
    """None below six classes, where every class is among the first five."""
    top5_interval: tuple[float, float] | None
    loss: float | None
    """Mean of -log of the true class's probability; None where a network gave a non-finite number."""


def each(predictions: Predictions) -> list[Result]:
    """The result of each model alone."""
    return [measure(probabilities, predictions.labels) for probabilities in predictions.probabilities]


def ensemble(predictions: Predictions) -> Result:
    """The result of all models together: the mean of their probabilities, each weighted the same whatever its crops."""
    return measure(np.mean(predictions.probabilities, axis=0), predictions.labels)


def measure(probabilities: np.ndarray, labels: np.ndarray) -> Result:
    """The result of probabilities [N, C] where the labels [N] are true."""
    ranks = rank(probabilities, labels)
    true_probability = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    # The least number above 0 stands for 0, whose logarithm would be all of the mean. NaN stays NaN.
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
    """Rank of the true class (0 is top-1 correct): int [N]; ties and NaN count as errors.

    The rule is training's, but what it looks at is not: there logits, here float32 probabilities, of which those under
    1e-38 are 0 and so ties. Only a network that is wildly sure of itself has fewer than five above that.
    """
    truth = np.take_along_axis(probabilities, labels[:, None], axis=1)
    return probabilities.shape[1] - 1 - np.sum(probabilities < truth, axis=1)


def interval(wrong: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of the fraction `wrong` / `images`."""
    from scipy import stats  # here because it is slow to import

    found = stats.binomtest(wrong, images).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)
