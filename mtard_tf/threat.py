"""The threat model: the set of allowed perturbed images, which the caller of an attack defines.

Two functions of CleverHans do the arithmetic of our own attacks: `clip_eta` here (projection on the
ball) and `optimize_linear` in `attacks.pgd` (the step of steepest ascent for a norm). CleverHans'
attacks themselves are only the reference that tests compare with, to the bit.
"""

from __future__ import annotations

import dataclasses
import fractions
import math
import numbers
from typing import Any

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta

NORMS = ("linf", "l2")


def radius(given: object, what: str = "ThreatModel.epsilon", norm: str = "linf") -> float:
    """An epsilon as a number in [0, 1] pixel units, from a number, "0.1", "8/255" or "25.5/255".

    Args:
      given: what a user wrote.
      what: the flag, binding or field, for the message.
      norm: "linf", whose radius is at most 1, or "l2".

    Raises:
      ValueError: not a finite number >= 0, or above 1 for "linf".
    """
    value: Any = given
    if isinstance(given, str):
        try:
            first, *rest = (fractions.Fraction(x) for x in given.replace(" ", "").split("/"))
            value = float(first / math.prod(rest)) if len(rest) < 2 else math.nan
        except (ValueError, ZeroDivisionError, OverflowError):
            value = math.nan
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value >= 0):
        raise ValueError(
            f"{what} is {given!r}; give a number >= 0 in [0, 1] pixel units, such as '8/255' "
            "(0.0313725)."
        )
    if norm == "linf" and value > 1:
        meant = f"'{value:g}/255' ({value / 255:.6g})" if value <= 255 else "at most 1"
        raise ValueError(
            f"{what} is {given!r}, but pixels run from 0 to 1: every image would be free to become "
            f"any other; give {meant}."
        )
    return float(value)


@dataclasses.dataclass(frozen=True)
class ThreatModel:
    """A norm ball around each image, intersected with the box of valid pixels.

    Attributes:
      norm: "linf" or "l2".
      epsilon: radius of the ball in [0, 1] pixel units; a number, text such as "8/255", or a scalar
        tensor (schedules).
      minimum: smallest valid pixel value.
      maximum: largest valid pixel value.

    Raises:
      ValueError: unknown norm, an epsilon that `radius` refuses, or an empty box.
    """

    norm: str = "linf"
    epsilon: float | tf.Tensor = 8 / 255
    minimum: float = 0.0
    maximum: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"ThreatModel.norm is {self.norm!r}; use one of {', '.join(NORMS)}.")
        if not tf.is_tensor(self.epsilon):  # text is parsed
            object.__setattr__(self, "epsilon", radius(self.epsilon, norm=self.norm))
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
        """The same threat model with `epsilon * factor` (epsilon schedules)."""
        return dataclasses.replace(self, epsilon=self.epsilon * factor)

    def project(self, perturbed: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Projects `perturbed` on the ball around `images`, then on the box.

        Both arguments and the result are float32 `[batch, height, width, channels]`.
        """
        inside = images + clip_eta(perturbed - images, self.order, self.epsilon)
        return tf.clip_by_value(inside, self.minimum, self.maximum)

    def violation(self, perturbed: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """How far each perturbed image lies outside the ball or the box, whichever is more.

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
