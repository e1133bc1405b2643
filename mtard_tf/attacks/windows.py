"""Square windows at a place of their own in each image."""

from __future__ import annotations

import tensorflow as tf


def signs(uniform: tf.Tensor, count: int) -> tf.Tensor:
    """`count` independent signs from each uniform number, float32 `[batch, count]`."""
    bits = tf.cast(uniform * 2.0**23, tf.int32)[:, tf.newaxis]
    shifted = tf.bitwise.right_shift(bits, tf.range(22, 22 - count, -1)[tf.newaxis])
    return 1.0 - 2.0 * tf.cast(tf.bitwise.bitwise_and(shifted, 1), tf.float32)


def inside(length: int, first: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Which of `length` places lie in [first, first + side): bool `[batch, length]`."""
    place = tf.range(length)[tf.newaxis] - first[:, tf.newaxis]
    return tf.logical_and(place >= 0, place < side)


def corner(uniform: tf.Tensor, length: int, side: tf.Tensor, inclusive: bool) -> tf.Tensor:
    """First place of a patch, int32 `[batch]`; not `inclusive` never draws the last one."""
    places = tf.maximum(length - side + int(inclusive), 1)
    return tf.cast(uniform * tf.cast(places, tf.float32), tf.int32)
