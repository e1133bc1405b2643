"""The end of a step: is what came out finite, and the update of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from mtard_tf.distribution import apply_if, replica_sum

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
      `non_finite`, and `skipped` where steps may be left out.
    """
    overflow = replica_sum(_non_finite(gradients))
    non_finite = _non_finite([loss])
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # It leaves steps that overflow out by itself, which is no fault; but it looks at one
        # replica's gradients, so each must know of the others' overflow.
        gradients = [tf.where(overflow > 0, float("inf"), g) for g in gradients]
    else:
        non_finite += overflow
    if before is None:
        optimizer.apply(gradients, weights)
        return {"non_finite": non_finite}
    finite = non_finite == 0
    apply_if(finite, optimizer, gradients, list(weights))
    for variable, old in before:
        variable.assign(tf.where(finite, variable.value, old))
    return {"non_finite": non_finite, "skipped": tf.cast(~finite, tf.float32)}


def _non_finite(tensors: list[tf.Tensor]) -> tf.Tensor:
    """How many elements are not finite, float32 scalar."""
    counts = [tf.math.count_nonzero(~tf.math.is_finite(t), dtype=tf.float32) for t in tensors]
    return tf.add_n(counts) if counts else tf.zeros([])
