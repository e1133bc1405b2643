"""Input gradients that half precision does not round to 0, and the nets that have none.

The gradient of a loss at the logits of a sure net, p - y of the cross-entropy, is far below what
float16 holds (6e-8): unscaled, it is 0 at every pixel and the attack does not move. Each
image's loss is therefore scaled by a power of two that makes its largest gradient at the logits 1
to 2. A power of two changes no digit, and no direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from mtard_tf.attacks import geometry

ModelFn = Callable[[tf.Tensor], tf.Tensor]
Objective = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_EXPONENT = 0x7F800000  # of a float32


class Slope(NamedTuple):
    """A loss, and how it changes with the images.

    Attributes:
      loss: `[batch]`, unscaled.
      logits: float32 `[batch, classes]`.
      gradient: of `scale * loss` with respect to the images, shaped like them.
      scale: `[batch]`, powers of two.
    """

    loss: tf.Tensor
    logits: tf.Tensor
    gradient: tf.Tensor
    scale: tf.Tensor

    def unscaled(self) -> tf.Tensor:
        """The gradient of the loss itself; may underflow in float32."""
        return self.gradient / geometry.spread(self.scale, self.gradient)


def slope(model_fn: ModelFn, images: tf.Tensor, objective: Objective) -> Slope:
    """The objective and its scaled gradient; no weight gradient is taken.

    A model whose answer to one image depends on the others of the batch says so in an attribute
    `mixes_images`: its images then have one scale. Without any path from the images to the
    objective the gradient is 0.

    Args:
      model_fn: images -> logits.
      images: float32 `[batch, ...]`.
      objective: (images, float32 logits) -> `[batch]`.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = tf.cast(model_fn(images), tf.float32)
        with tf.GradientTape(watch_accessed_variables=False) as at_logits:
            at_logits.watch(logits)
            loss = objective(images, logits)
    sent_back = at_logits.gradient(loss, logits)
    scale = tf.ones_like(loss)
    if sent_back is not None:
        scale = scale_of(sent_back, mixes_images(model_fn))
    gradient = tape.gradient(
        loss,
        images,
        output_gradients=scale,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return Slope(loss, logits, gradient, scale)


def mixes_images(model_fn: ModelFn) -> bool:
    """Whether the model declares that its answer to an image depends on the rest of the batch."""
    return getattr(model_fn, "mixes_images", False)


def scale_of(sent_back: tf.Tensor, together: bool = False) -> tf.Tensor:
    """Powers of two, `[batch]`, that take each row's largest entry to [1, 2); 1 for rows of 0.

    Args:
      sent_back: float32 `[batch, ...]`.
      together: one power for the whole batch.
    """
    largest = tf.reduce_max(tf.abs(sent_back), axis=list(range(1, sent_back.shape.rank)))
    if together:
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return tf.ones_like(largest)  # statistics may be over all replicas, of other scales
        largest = tf.fill(tf.shape(largest), tf.reduce_max(largest))
    bits = tf.bitwise.bitwise_and(tf.bitcast(largest, tf.int32), _EXPONENT)
    power = tf.bitcast(bits, tf.float32)
    return tf.where(power > 0, 1.0 / power, 1.0)


def none_reaches(model_fn: ModelFn, images: tf.Tensor) -> bool:
    """Whether no gradient of a logit reaches the images, though the logits depend on them.

    So it is behind rounding, a cast to integers or `stop_gradient`. Outside of a `tf.function`.
    """
    spread = slope(
        model_fn,
        images,
        # No two classes weigh the same, so that nothing cancels.
        lambda _, logits: tf.linalg.matvec(
            logits, tf.sqrt(1.0 + tf.range(logits.shape[-1], dtype=tf.float32))
        ),
    )
    if bool(tf.reduce_any(spread.gradient != 0)):
        return False
    logits = spread.logits
    others = tf.cast(model_fn(1.0 - images), tf.float32)
    largest = tf.reduce_max(tf.abs(logits))
    return bool(tf.reduce_max(tf.abs(logits - others)) > 1e-6 * largest)
