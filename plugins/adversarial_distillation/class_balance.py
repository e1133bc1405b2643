"""The balance of classes: a temperature of each, from how hard it is to learn."""

from __future__ import annotations

import tensorflow as tf


def class_temperatures(
    temperatures: tf.Tensor,
    losses: tf.Tensor,
    *,
    rate: float | tf.Tensor,
    minimum: float,
    maximum: float,
) -> tf.Tensor:
    """The classes' temperatures after an epoch.

        tau_c <- clip(tau_c - rate (L_c - mean L) / max |L - mean L|, minimum, maximum)

    Args:
      temperatures: `[views, classes]`.
      losses: `[views, classes]`, summed over the epoch.
      rate: step of the class whose loss differs most from the mean.
      minimum: lower bound.
      maximum: upper bound.

    Returns:
      `[views, classes]`; the old ones where all losses are equal.
    """
    gaps = losses - tf.reduce_mean(losses, axis=1, keepdims=True)
    largest = tf.reduce_max(tf.abs(gaps), axis=1, keepdims=True)
    step = rate * tf.math.divide_no_nan(gaps, largest)
    return tf.clip_by_value(temperatures - step, minimum, maximum)
