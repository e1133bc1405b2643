"""Calibrated probabilities: a temperature for a student's logits, and its effect.

The temperature, the threshold and the reference of `mtard_tf.monitor` are of validation images; how
good they are is measured on test images. All images are uint8, clean and attacked.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mtard_tf import monitor
from mtard_tf.attacks.pgd import PGD
from mtard_tf.data.batches import to_float
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.exporting.attacked_images import BATCH, attacked_images
from mtard_tf.exporting.formats import ExportError
from mtard_tf.measuring import calibration
from mtard_tf.models.folding import FoldedInference
from mtard_tf.threat import ThreatModel

ATTACK = PGD(num_steps=20)
IMAGES = 1000  # at most this many images of a split are attacked and measured


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What an export does with a student's logits.

    Attributes:
      temperature: divides them before the softmax.
      threshold: confidence that a stated share of the validation images reaches.
      known: what is to be known of both, for metadata and card.
      reference: of `mtard_tf.monitor`.
    """

    temperature: float
    threshold: float
    known: dict[str, Any]
    reference: monitor.Reference


def calibrate(student: Any, data: ImageData, threat: ThreatModel, coverage: float) -> Calibration:
    """Fits a temperature to the validation images.

    Args:
      student: from float32 images in [0, 1] to logits.
      data: its validation images fit, its test images measure; those, too, are validation images
        where test images are missing or have no labels.
      threat: of the attack.
      coverage: share of the images that are to reach the threshold.

    Raises:
      ExportError: no temperature fits.
    """
    model_fn = FoldedInference(student)()
    fitting = data.labelled("validation")
    logits = _logits(model_fn, fitting.images)
    try:
        temperature = calibration.fitted_temperature(logits, fitting.labels)
    except ValueError as error:
        raise ExportError(f"The student cannot be calibrated: {error}") from error
    probabilities = calibration.softmax(logits, temperature)
    threshold = calibration.confidence_threshold(probabilities, coverage)
    first = data.labelled("validation", IMAGES)
    attacked = calibration.softmax(_attacked(model_fn, first, threat), temperature)
    split = "test" if len(data.test) and data.test.labels[:IMAGES].min() >= 0 else "validation"
    measured = data.labelled(split, IMAGES)
    known = {
        "temperature": temperature,
        "fitted_on": len(fitting),
        "coverage": coverage,
        "threshold": threshold,
        "split": split,
        "images": len(measured),
        "attack": repr(ATTACK),
        "threat": {"norm": threat.norm, "epsilon": float(threat.epsilon)},
    }
    every = {
        "clean": _logits(model_fn, measured.images),
        "attacked": _attacked(model_fn, measured, threat),
    }
    for kind, found in every.items():
        known[kind] = _figures(found, measured.labels, temperature, threshold)
    reference = monitor.Reference.of(probabilities, attacked)
    return Calibration(temperature, threshold, known, reference)


def _figures(
    logits: np.ndarray, labels: np.ndarray, temperature: float, threshold: float
) -> dict[str, Any]:
    """`before` and `after` the temperature; what reaches the threshold, and how much is right."""
    after = calibration.softmax(logits, temperature)
    kept = after.max(axis=1) >= threshold
    right = after.argmax(axis=1) == labels
    return {
        "before": calibration.figures(calibration.softmax(logits), labels),
        "after": calibration.figures(after, labels),
        "covered": float(kept.mean()),
        "accuracy_covered": float(right[kept].mean()) if kept.any() else None,
    }


def _attacked(model_fn: Any, split: Split, threat: ThreatModel) -> np.ndarray:
    images = np.asarray(split.images)
    return _logits(model_fn, attacked_images(model_fn, ATTACK, images, split.labels, threat))


def _logits(model_fn: Any, images: Any) -> np.ndarray:
    parts = [np.asarray(images[at : at + BATCH]) for at in range(0, len(images), BATCH)]
    return np.concatenate([np.asarray(model_fn(to_float(part)), np.float32) for part in parts])
