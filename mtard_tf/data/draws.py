"""Random numbers as a hash of (seed, id): an image's do not depend on the batch that it is in.

A hash rather than `tf.random.stateless_*`: those draw a whole batch from one seed, and one call per
image costs more than the augmentation itself.
"""

from __future__ import annotations

import tensorflow as tf

# splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", fig. 15).
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MIX_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def id_bits(ids: tf.Tensor, seed: int) -> tf.Tensor:
    """64 random bits per id, uint64 `[batch]`: `splitmix64(splitmix64(seed) + id * gamma)`.

    Args:
      ids: int64 `[batch]`.
      seed: integer.
    """
    gamma = tf.constant(_GOLDEN_GAMMA, tf.uint64)
    start = _splitmix64(tf.constant(seed % 2**64, tf.uint64))
    return _splitmix64(start + tf.cast(ids, tf.uint64) * gamma)


def uniform(ids: tf.Tensor, seed: int, count: int, first: int = 0) -> tf.Tensor:
    """Numbers `first` to `first + count - 1` of each id, float64 `[batch, count]` in [0, 1).

        number k = splitmix64(id_bits + k * gamma) >> 11, divided by 2^53

    Args:
      ids: int64 `[batch]`.
      seed: integer.
      count: numbers per id.
      first: place of the first of them; what uses other places is independent.
    """
    places = tf.range(first, first + count, dtype=tf.int64)
    steps = tf.cast(places, tf.uint64) * tf.constant(_GOLDEN_GAMMA, tf.uint64)
    bits = _splitmix64(id_bits(ids, seed)[:, None] + steps)
    return tf.cast(shift(bits, 11), tf.float64) / 2.0**53


def whole(numbers: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Numbers in [0, 1) as int32 in 0 to `count - 1`; `count` may differ from row to row."""
    return tf.cast(numbers * tf.cast(count, tf.float64), tf.int32)


def shift(bits: tf.Tensor, places: int) -> tf.Tensor:
    """uint64 `bits` shifted right."""
    return tf.bitwise.right_shift(bits, tf.constant(places, tf.uint64))


def _splitmix64(state: tf.Tensor) -> tf.Tensor:
    mixed = state + tf.constant(_GOLDEN_GAMMA, tf.uint64)
    for places, factor in _MIX_ROUNDS:
        mixed = tf.bitwise.bitwise_xor(mixed, shift(mixed, places))
        mixed *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(mixed, shift(mixed, 31))
