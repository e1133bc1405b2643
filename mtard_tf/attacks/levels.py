"""Images of 8 bits: the largest ball of whole levels within a threat model, and the way into it.

A server takes uint8, so a perturbation that it can see is one of whole levels, 1/255 each. Rounding
an attacked image leaves the ball where epsilon lies between two levels: at 0.1 = 25.5/255 half of
the pixels come to 26. Within the ball are floor(255 epsilon) levels in Linf, and in L2 changes
whose squares sum to at most floor((255 epsilon)^2).
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from mtard_tf.threat import ThreatModel

WHITE = 255.0
# In levels: 8/255 given as 0.0313725 is 7.99999 of them. Far below what an audit lets pass (1e-6 in
# pixel units), as a float32 pixel is.
SLACK = 1e-4


def whole(threat: ThreatModel) -> int:
    """Levels within a Linf radius, floor(255 epsilon); within an L2 one, their largest squared sum.

    Raises:
      ValueError: epsilon is a tensor, whose levels a graph cannot count exactly.
    """
    if tf.is_tensor(threat.epsilon):
        raise ValueError("Whole levels need an epsilon that is a number; it is a tensor (a sweep).")
    reach = WHITE * float(threat.epsilon) + SLACK
    return math.floor(reach if threat.norm == "linf" else reach**2)


def outside(levels: np.ndarray, clean: np.ndarray, threat: ThreatModel) -> np.ndarray:
    """Which images of levels leave the ball, counted in integers: bool `[batch]`.

    Args:
      levels: uint8 `[batch, ...]`.
      clean: uint8, shaped like them.
      threat: norm and epsilon, a number.
    """
    change = np.abs(levels.astype(np.int64) - clean.astype(np.int64)).reshape(len(levels), -1)
    if threat.norm == "linf":
        return change.max(axis=1, initial=0) > whole(threat)
    return (change**2).sum(axis=1) > whole(threat)


def inside(perturbed: tf.Tensor, images: tf.Tensor, threat: ThreatModel) -> tf.Tensor:
    """The images of whole levels next to attacked ones, in the ball of whole levels.

    Linf: each pixel goes to the nearest level, and then to at most floor(255 epsilon) levels from
    the clean one. L2: each change is rounded towards 0, which cannot leave the ball, and then,
    as long as the squares' sum allows it, changes go to their nearest level, first those that are
    nearest to it. Where the clean images are not of whole levels themselves, the ball is around
    their nearest ones: what a server is sent of them.

    Args:
      perturbed: float32 in [0, 1], `[batch, height, width, channels]`.
      images: clean ones, shaped like them.
      threat: norm and epsilon, a number; the box is [0, 1].

    Returns:
      Whole levels, float32 0 to 255: `/ 255.0` is what the uint8 signature computes of them.
    """
    clean, limit = tf.round(WHITE * images), whole(threat)
    if threat.norm == "linf":
        change = tf.round(WHITE * perturbed) - clean
        return clean + tf.clip_by_value(change, -float(limit), float(limit))
    return clean + _within_budget(WHITE * perturbed - clean, limit)


def _within_budget(change: tf.Tensor, budget: int) -> tf.Tensor:
    """Whole numbers near `change`, float32, whose squares sum to at most `budget` by image."""
    wide = tf.cast(tf.reshape(change, [tf.shape(change)[0], -1]), tf.float64)
    size = tf.norm(wide, axis=1, keepdims=True)
    wide *= tf.minimum(tf.math.divide_no_nan(tf.constant(budget**0.5, tf.float64), size), 1.0)
    amount = tf.abs(wide)
    lower = tf.floor(amount)
    part = amount - lower
    order = tf.argsort(part, axis=1, direction="DESCENDING", stable=True)
    # One level more of an entry costs (k + 1)^2 - k^2.
    costs = tf.gather(2.0 * lower + 1.0, order, batch_dims=1)
    spare = budget - tf.reduce_sum(tf.square(lower), axis=1, keepdims=True)
    afforded = tf.logical_and(
        tf.cumsum(costs, axis=1) <= spare, tf.gather(part, order, batch_dims=1) >= 0.5
    )
    places = tf.argsort(order, axis=1)
    raised = lower + tf.cast(tf.gather(afforded, places, batch_dims=1), tf.float64)
    return tf.reshape(tf.cast(tf.sign(wide) * raised, tf.float32), tf.shape(change))
