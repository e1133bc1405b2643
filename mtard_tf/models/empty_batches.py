"""Models on empty batches, which attacks reach when no image of a batch is left to attack.

TensorFlow 2.21 with oneDNN on CPU fuses convolution, bias and activation inside a `tf.function`;
on an empty batch the fused operation returns its input's shape, and the next layer fails with
"input depth must be evenly divisible by filter depth". Eager calls and other devices are correct.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

ModelFn = Callable[[tf.Tensor], tf.Tensor]


def never_empty(model_fn: ModelFn) -> ModelFn:
    """The same function; an empty batch reaches the model as one black image."""

    def guarded(images: tf.Tensor) -> tf.Tensor:
        if images.shape[0]:  # known, and not 0
            return model_fn(images)
        count = tf.shape(images)[0]
        paddings = [[0, tf.maximum(1 - count, 0)], *[[0, 0]] * (images.shape.rank - 1)]
        padded = tf.ensure_shape(tf.pad(images, paddings), [None, *images.shape[1:]])
        return model_fn(padded)[:count]

    return guarded
