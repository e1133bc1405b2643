"""Means over the global batch, correct under `tf.distribute`.

Keras' TensorFlow optimizer sums gradients over replicas. A loss that is the replica's *share* of
the global mean therefore gives the gradient of the global mean, also when the last batch of an
epoch does not divide evenly. The balance of several teachers takes ratios and signs; these must be
taken of the global means, or replicas drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf
from keras import Variable
from keras.optimizers import Optimizer


def replicated_state(
    owner: keras.Model,
    name: str,
    shape: Sequence[int] = (),
    initializer: str | Callable = "zeros",
    dtype: str = "float32",
) -> Variable:
    """A variable of `owner` that no optimizer moves and all replicas hold with the same value."""
    return owner.add_weight(
        name=name,
        shape=shape,
        initializer=initializer,
        dtype=dtype,
        trainable=False,
        aggregation="only_first_replica",
    )


def replica_sum(value: tf.Tensor) -> tf.Tensor:
    """The sum of `value` over all replicas, the same on each; `value` itself on one device."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def replica_bounds(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The least and the greatest of `values`, `[batch]`, over all replicas: the same on each."""
    bounds = tf.stack([tf.reduce_min(values), -tf.reduce_max(values)])
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        # TensorFlow reduces by sums alone: each replica writes into a row of its own.
        replicas = tf.range(context.num_replicas_in_sync)[:, tf.newaxis]
        own = replicas == context.replica_id_in_sync_group
        bounds = tf.reduce_min(replica_sum(tf.where(own, bounds, 0.0)), axis=0)
    return bounds[0], -bounds[1]


def mean_shares(values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """This replica's shares of means over the global batch.

    Args:
      values: name -> one value per example of this replica, `[batch]`.

    Returns:
      name -> a scalar; its `replica_sum` is the mean over the global batch.
    """
    count = replica_sum(tf.cast(tf.shape(next(iter(values.values())))[0], tf.float32))
    return {name: tf.reduce_sum(value) / count for name, value in values.items()}


def replica_sums(values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """`replica_sum` of several scalars in one exchange."""
    sums = tf.unstack(replica_sum(tf.stack(list(values.values()))))
    return dict(zip(values, sums, strict=True))


def global_means(values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Means over the global batch in one exchange.

    Args:
      values: one value per example of this replica each, `[batch]`.

    Returns:
      `[len(values)]`.
    """
    stacked = tf.stack(list(values))
    count = tf.cast(tf.shape(stacked)[1], stacked.dtype)
    sums = replica_sum(tf.concat([tf.reduce_sum(stacked, axis=1), [count]], axis=0))
    return sums[:-1] / sums[-1]


def replica_sum_flat(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """`replica_sum` of each tensor, as one vector: one exchange, however many there are."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return list(tensors)
    flat = replica_sum(tf.concat([tf.reshape(t, [-1]) for t in tensors], axis=0))
    parts = tf.split(flat, [math.prod(t.shape) for t in tensors])
    return [tf.reshape(part, t.shape) for part, t in zip(parts, tensors, strict=True)]


def average_replicas(variables: Sequence[Variable]) -> None:
    """Sets float variables that each replica moved by itself to their mean, on all replicas.

    BatchNorm's running statistics are such: Keras lets those of each replica go their own way, and
    then a model file, a checkpoint or an evaluation would hold those of the first alone.
    """
    context = tf.distribute.get_replica_context()
    moved = [v for v in variables if v.dtype.startswith("float")]
    if context.num_replicas_in_sync == 1 or not moved:
        return
    sums = replica_sum_flat([v.value for v in moved])
    for variable, total in zip(moved, sums, strict=True):
        variable.assign(total / tf.cast(context.num_replicas_in_sync, total.dtype))


def apply_if(
    finite: tf.Tensor, optimizer: Optimizer, gradients: list[tf.Tensor], variables: list
) -> None:
    """Applies gradients where `finite` holds, and changes nothing where it does not.

    Args:
      finite: bool scalar, the same on all replicas.
      optimizer: built.
      gradients: of this replica.
      variables: trained.
    """
    supports = tf.__internal__.distribute.strategy_supports_no_merge_call
    if not tf.distribute.has_strategy() or supports():
        tf.cond(finite, lambda: _applied(optimizer, gradients, variables), lambda: False)
        return

    # A branch that merges replicas may not stand in a condition of one replica.
    def merged(
        strategy: tf.distribute.Strategy, finite: tf.Tensor, gradients: list[tf.Tensor]
    ) -> None:
        def apply() -> bool:
            strategy.extended.call_for_each_replica(
                lambda parts: _applied(optimizer, parts, variables), args=(gradients,)
            )
            return False

        tf.cond(strategy.experimental_local_results(finite)[0], apply, lambda: False)

    tf.distribute.get_replica_context().merge_call(merged, args=(finite, gradients))


def _applied(optimizer: Optimizer, gradients: list[tf.Tensor], variables: list) -> bool:
    optimizer.apply(gradients, variables)
    return False  # what both branches of a condition return
