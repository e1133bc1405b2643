"""The end of a step: the check for non-finite values, and the update of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from mtard_tf.distribute.replicas import apply_if, replica_sum

Values = Sequence[tuple[keras.Variable, tf.Tensor]]


def snapshot(variables: Sequence[keras.Variable]) -> Values:
    """Variables with their current values."""
    return [(variable, tf.convert_to_tensor(variable.value)) for variable in variables]


def update(
    optimizer: keras.optimizers.Optimizer,
    gradients: list[tf.Tensor],
    weights: Sequence[keras.Variable],
    loss: tf.Tensor,
    before: Values | None,
) -> dict[str, tf.Tensor]:
    """Applies gradients, and counts the elements of loss and gradients that are not finite.

    Args:
      optimizer: built.
      gradients: of this replica.
      weights: trained variables.
      loss: over the global batch, scalar.
      before: `snapshot` of all other variables that a skipped step must not change; steps that are
        not finite are then skipped. None applies every gradient.

    Returns:
      `non_finite`; with `before`, `skipped`, 0 or 1; with loss scaling, `overflowed`, 0 or 1: it
      skips steps whose gradients are not finite at its scale.
    """
    logs = {}
    overflow = replica_sum(_non_finite(gradients))
    non_finite = _non_finite([loss])
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # It skips steps that overflow, but sees one replica's gradients only: all replicas must
        # skip together.
        gradients = [tf.where(overflow > 0, float("inf"), g) for g in gradients]
        logs["overflowed"] = tf.cast((overflow > 0) & (non_finite == 0), tf.float32)
    else:
        non_finite += overflow
    logs["non_finite"] = non_finite
    if before is None:
        optimizer.apply(gradients, weights)
        return logs
    finite = non_finite == 0
    apply_if(finite, optimizer, gradients, list(weights))
    for variable, old in before:
        variable.assign(tf.where(finite, variable.value, old))
    return logs | {"skipped": tf.cast(~finite, tf.float32)}


def connected(
    gradients: list[tf.Tensor | None], weights: Sequence[keras.Variable]
) -> list[tf.Tensor]:
    """Gradients, 0 for a weight that the loss does not depend on.

    Raises:
      ValueError: the loss depends on none of the weights.
    """
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            "No gradient reaches the weights of the student: it has none to train, or a layer "
            "rounds, casts to integers or stops the gradient."
        )
    return [
        tf.zeros_like(weight.value) if gradient is None else gradient
        for gradient, weight in zip(gradients, weights, strict=True)
    ]


def _non_finite(tensors: list[tf.Tensor]) -> tf.Tensor:
    """How many elements are not finite, float32 scalar."""
    counts = [tf.math.count_nonzero(~tf.math.is_finite(t), dtype=tf.float32) for t in tensors]
    return tf.add_n(counts) if counts else tf.zeros([])
