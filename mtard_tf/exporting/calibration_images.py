"""Training images that calibrate the activation ranges of `litert_int8`."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.data.batches import to_float
from mtard_tf.data.image_data import ImageData
from mtard_tf.threat import ThreatModel

_BATCH = 100
ATTACK = PGD(num_steps=10)


def calibration_images(
    data: ImageData, count: int, kind: str, student: Any, threat: ThreatModel
) -> np.ndarray:
    """At most `count` images of the training split, at equal distances, as they are stored.

    Ranges that were seen on clean images alone cut off what only attacked ones reach.

    Args:
      data: its training split.
      count: 1 or more.
      kind: "clean", or "mixed": the same images follow once more, attacked by PGD of 10 steps.
      student: from float32 images in [0, 1] to logits.
      threat: of the attack.

    Returns:
      float32 in [0, 1], `[n, height, width, channels]`.
    """
    total = len(data.train)
    places = np.linspace(0, total - 1, min(count, total)).astype(np.int64)
    split = data.train.take(places)
    clean = np.asarray(to_float(split.images))
    if kind == "clean":
        return clean

    @tf.function
    def attacked(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        def model_fn(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(student(images, training=False), tf.float32)

        return ATTACK(model_fn, images, labels, threat=threat, seeds=image_seeds(0, ids))

    rows = [slice(i, i + _BATCH) for i in range(0, len(clean), _BATCH)]
    parts = [attacked(clean[row], split.labels[row], places[row]).numpy() for row in rows]
    return np.concatenate([clean, *parts])
