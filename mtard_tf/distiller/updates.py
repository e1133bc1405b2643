"""The end of a step: is what came out finite, and the update of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from mtard_tf.distribute.replicas import apply_if, replica_sum

Values = Sequence[tuple[keras.Variable, tf.Tensor]]


def snapshot(variables: Sequence[keras.Variable]) -> Values:
    """Variables with their values of now."""
    return [(variable, tf.convert_to_tensor(variable.value)) for variable in variables]


def update(
    optimizer: keras.optimizers.Optimizer,
    gradients: list[tf.Tensor],
    weights: Sequence[keras.Variable],
    loss: tf.Tensor,
    before: Values | None,
) -> dict[str, tf.Tensor]:
    """Applies gradients, and says how many elements of loss and gradients are not finite.

    Args:
      optimizer: built.
      gradients: of this replica.
      weights: trained variables.
      loss: over the global batch, scalar.
      before: `snapshot` of what else a step that is not finite must leave as it was; such a step
        then changes nothing. None applies whatever comes.

    Returns:
      `non_finite`; `skipped`, 0 or 1, where steps may be left out; `overflowed`, 0 or 1, where loss
      scaling leaves out those whose gradients are not finite at its scale.
    """
    logs = {}
    overflow = replica_sum(_non_finite(gradients))
    non_finite = _non_finite([loss])
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # It leaves steps that overflow out by itself, which is no fault; but it looks at one
        # replica's gradients, so each must know of the others' overflow.
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
    """Gradients with 0 for a weight that the loss does not depend on.

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
