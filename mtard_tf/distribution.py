"""Means over the global batch, correct under `tf.distribute`.

Keras' TensorFlow optimizer sums gradients over replicas. A loss that is the replica's *share* of
the global mean therefore gives the gradient of the global mean, also when the last batch of an
epoch does not divide evenly. The balance of several teachers takes ratios and signs; these must be
taken of the global means, or replicas drift apart.
"""

from __future__ import annotations

import tensorflow as tf


def replica_sum(value: tf.Tensor) -> tf.Tensor:
    """The sum of `value` over all replicas, the same on each; `value` itself on one device."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def mean_share(values: tf.Tensor) -> tf.Tensor:
    """This replica's share of the mean over the global batch.

    Args:
      values: one value per example of this replica, `[batch]`.

    Returns:
      A scalar; its `replica_sum` is the mean over the global batch.
    """
    count = replica_sum(tf.cast(tf.shape(values)[0], values.dtype))
    return tf.reduce_sum(values) / count
