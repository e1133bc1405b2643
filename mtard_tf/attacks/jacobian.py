"""Gradients of every logit with respect to the image, one backward pass for each class."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from mtard_tf.attacks import shrinking_batches

ModelFn = Callable[[tf.Tensor], tf.Tensor]


def logits_and_jacobian(
    model_fn: ModelFn, images: tf.Tensor, classes: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Logits, and the gradient of each with respect to the image.

    One forward pass; the backward passes run in a loop, so that the graph does not grow with the
    number of classes.

    Args:
      model_fn: images -> logits.
      images: float32 `[batch, ...]`.
      classes: ids of the wanted classes of each image, `[batch, count]`; all of them if None.

    Returns:
      Logits `[batch, classes]` and gradients `[batch, count, ...]`.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = tf.cast(model_fn(images), tf.float32)
    total = logits.shape[-1]
    if classes is None:
        classes = tf.tile(tf.range(total)[tf.newaxis], [tf.shape(logits)[0], 1])

    def backward(k: tf.Tensor) -> tf.Tensor:
        return tape.gradient(
            logits,
            images,
            output_gradients=tf.one_hot(tf.gather(classes, k, axis=1), total),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    rows = tf.map_fn(
        backward,
        tf.range(classes.shape[1]),
        fn_output_signature=tf.TensorSpec(images.shape, tf.float32),
        parallel_iterations=1,
    )
    return logits, tf.transpose(rows, [1, 0, *range(2, rows.shape.rank)])


def nearest_boundary(
    model_fn: ModelFn,
    images: tf.Tensor,
    labels: tf.Tensor,
    *,
    norm: str,
    candidates: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The linearised class boundary that is nearest to each image.

        k = argmin_{k != label} |z_k - z_label| / |grad(z_k - z_label)|_dual

    Args:
      model_fn: images -> logits.
      images: float32 `[batch, ...]`.
      labels: integer class ids, `[batch]`.
      norm: "linf" (dual: L1) or "l2" (dual: L2).
      candidates: look only at this many of the likeliest other classes; at all if None.

    Returns:
      z_k - z_label, `[batch]`, and its gradient, shaped like `images`.
    """
    others = shrinking_batches.wrong_classes(model_fn(images), labels)
    others = others[:, : candidates or others.shape[1]]
    classes = tf.concat([tf.cast(labels, tf.int32)[:, None], others], axis=1)
    logits, gradients = logits_and_jacobian(model_fn, images, classes)
    logits = tf.gather(logits, classes, batch_dims=1)
    gaps, normals = logits[:, 1:] - logits[:, :1], gradients[:, 1:] - gradients[:, :1]
    axes = list(range(2, normals.shape.rank))
    dual = (
        tf.reduce_sum(tf.abs(normals), axis=axes)
        if norm == "linf"
        else tf.sqrt(tf.reduce_sum(tf.square(normals), axis=axes))
    )
    distances = tf.where(dual > 0, tf.abs(gaps) / dual, float("inf"))
    nearest = tf.argmin(distances, axis=1, output_type=tf.int32)
    return tf.gather(gaps, nearest, batch_dims=1), tf.gather(normals, nearest, batch_dims=1)
