"""Attacked images as a server would get them: uint8, inside the ball."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mtard_tf.attacks import levels
from mtard_tf.attacks.attack import Attack
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.data.batches import to_float
from mtard_tf.threat import ThreatModel

BATCH = 100


def attacked_images(
    model_fn: Callable[[tf.Tensor], tf.Tensor],
    attack: Attack,
    images: np.ndarray,
    labels: np.ndarray,
    threat: ThreatModel,
) -> np.ndarray:
    """Images of whole levels that an attack finds, of the given shape and dtype.

    Args:
      model_fn: from float32 images in [0, 1] to logits.
      attack: one that does not stop at the boundary, or rounding would bring its images back.
      images: uint8 `[n, height, width, channels]`; at least one.
      labels: integer `[n]`.
      threat: of the attack.
    """

    @tf.function
    def run(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        found = attack(model_fn, images, labels, threat=threat, seeds=image_seeds(0, ids))
        return levels.inside(found, images, threat)

    places = np.arange(len(labels))
    rows = [slice(at, at + BATCH) for at in range(0, len(labels), BATCH)]
    parts = [run(to_float(images[row]), labels[row], places[row]) for row in rows]
    return np.concatenate([np.asarray(part) for part in parts]).astype(np.uint8)
