"""Calibration: whether a probability of 80 % is right four times in five; NumPy alone.

`probabilities` are float `[images, classes]` with rows that sum to 1, `logits` of the same shape,
and `labels` integer class ids `[images]`. The confidence of an image is its largest probability.
"""

from __future__ import annotations

import numpy as np

BINS = 15  # of most papers
_COLDEST, _HOTTEST = 1e-3, 1e3
_HALVINGS = 100  # to the last bit of a float64


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities of logits divided by a temperature, float64 `[images, classes]`."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T > 0 at which softmax(z / T) gives the labels the greatest likelihood.

    The mean of -log softmax(b z)_y is convex in b = 1 / T, with the derivative

        mean over images of sum_c softmax(b z)_c z_c - z_y,

    whose only zero is halved in. Predictions do not change.

    Raises:
      ValueError: no temperature from 1/1000 to 1000 is the best one: every image is right, or the
        logits say less of the labels than chance.

    Source: Guo et al. (ICML 2017, arXiv 1706.04599), section 4.2.
    """
    logits = np.asarray(logits, np.float64)
    own = logits[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        return float(np.mean((softmax(logits * inverse) * logits).sum(axis=1) - own))

    low, high = np.log(1 / _HOTTEST), np.log(1 / _COLDEST)
    for end, inside in ((low, slope(np.exp(low)) < 0), (high, slope(np.exp(high)) > 0)):
        if not inside:
            raise ValueError(
                f"{len(labels):,} images do not determine a temperature (it would go beyond "
                f"{np.exp(-end):g}): {np.mean(logits.argmax(axis=1) == labels):.1%} of them are "
                "right; take more images, or a net that is better than chance."
            )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> float:
    """ECE: how far accuracy and mean confidence are apart, mean over images in bins of confidence.

        sum over bins of |B| / n * |accuracy(B) - mean confidence(B)|

    The bins are of equal width in [0, 1], each with its upper end.

    Source: Naeini et al. (AAAI 2015); with 15 bins as in Guo et al. (arXiv 1706.04599), equation 3.
    """
    confidence, right = _confidence(probabilities, labels)
    places = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    gaps = np.bincount(places, right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance between probabilities and the label's one-hot, from 0 to 2.

    Source: Brier (Monthly Weather Review 78, 1950), over all classes.
    """
    distances = np.array(probabilities, np.float64)
    distances[np.arange(len(labels)), labels] -= 1
    return float(np.mean(np.square(distances).sum(axis=1)))


def confidence_threshold(probabilities: np.ndarray, coverage: float) -> float:
    """The largest threshold that a share `coverage` of the images reaches with its confidence.

    Args:
      probabilities: `[images, classes]`.
      coverage: above 0, at most 1.
    """
    confidence = np.sort(np.max(probabilities, axis=1))
    kept = max(1, int(np.ceil(coverage * len(confidence) - 1e-9)))
    return float(confidence[len(confidence) - kept])


def figures(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`accuracy`, mean `confidence`, `ece` and `brier`."""
    confidence, right = _confidence(probabilities, labels)
    return {
        "accuracy": float(right.mean()),
        "confidence": float(confidence.mean()),
        "ece": expected_calibration_error(probabilities, labels),
        "brier": brier_score(probabilities, labels),
    }


def _confidence(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and 1.0 where the prediction is right, else 0.0; both `[images]`."""
    right = np.argmax(probabilities, axis=1) == labels
    return np.max(probabilities, axis=1).astype(np.float64), right.astype(np.float64)
