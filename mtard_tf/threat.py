"""The threat model: which perturbed images count. It belongs to the caller, not to the attack."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta

NORMS = ("linf", "l2")


@dataclasses.dataclass(frozen=True)
class ThreatModel:
    """A norm ball around each image, cut with the box of valid pixels.

    Attributes:
      norm: "linf" or "l2".
      epsilon: radius of the ball in [0, 1] pixel units. A scalar tensor is allowed (schedules).
      minimum: least valid pixel value.
      maximum: greatest valid pixel value.

    Raises:
      ValueError: unknown norm, a negative epsilon, or an empty box.
    """

    norm: str = "linf"
    epsilon: float | tf.Tensor = 8 / 255
    minimum: float = 0.0
    maximum: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"ThreatModel.norm is {self.norm!r}; use one of {', '.join(NORMS)}.")
        if isinstance(self.epsilon, (str, bool)) or (
            isinstance(self.epsilon, (int, float)) and not self.epsilon >= 0
        ):
            raise ValueError(
                f"ThreatModel.epsilon is {self.epsilon!r}; give a number >= 0 in [0, 1] pixel "
                "units (8/255 is 0.0313726)."
            )
        if not self.minimum < self.maximum:
            raise ValueError(
                f"ThreatModel box is [{self.minimum}, {self.maximum}]; minimum must be below "
                "maximum."
            )

    @property
    def order(self) -> float:
        """The norm as NumPy and CleverHans name it: `np.inf` or 2."""
        return np.inf if self.norm == "linf" else 2

    def scaled(self, factor: float | tf.Tensor) -> ThreatModel:
        """The same threat with `epsilon * factor` (epsilon schedules)."""
        return dataclasses.replace(self, epsilon=self.epsilon * factor)

    def project(self, perturbed: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """The nearest valid images to `perturbed`: into the ball around `images`, then the box.

        Both arguments and the result are float32 `[batch, height, width, channels]`.
        """
        inside = images + clip_eta(perturbed - images, self.order, self.epsilon)
        return tf.clip_by_value(inside, self.minimum, self.maximum)

    def violation(self, perturbed: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """How far each perturbed image lies outside the ball or the box.

        Returns:
          `[batch]` float32, in pixel units; 0 for a valid image, NaN if the image holds NaN.
        """
        delta = tf.reshape(perturbed - images, [tf.shape(images)[0], -1])
        size = (
            tf.reduce_max(tf.abs(delta), axis=1) if self.norm == "linf" else tf.norm(delta, axis=1)
        )
        flat = tf.reshape(perturbed, [tf.shape(images)[0], -1])
        outside_box = tf.maximum(
            self.minimum - tf.reduce_min(flat, axis=1), tf.reduce_max(flat, axis=1) - self.maximum
        )
        return tf.maximum(tf.maximum(size - self.epsilon, outside_box), 0.0)
