"""Randomness per image: a stateless seed for each, so that batching and sharding change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def image_seeds(seed: int | tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """One stateless seed per image.

    Args:
      seed: integer scalar, the run's (or attack's) seed.
      ids: integer ids of the images, `[batch]`: their place in the stream or in the data set.

    Returns:
      int32 `[batch, 2]`, for `tf.random.stateless_*`.
    """
    ids = tf.cast(ids, tf.int32)
    return tf.stack([tf.fill(tf.shape(ids), tf.cast(seed, tf.int32)), ids], axis=1)


def normal(seeds: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Standard normal float32 `[batch, *shape]`; row i depends on `seeds[i]` alone."""
    draw = _normal if _by_xla() else tf.random.stateless_normal
    return _per_image(draw, seeds, shape)


def uniform(seeds: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Uniform [0, 1) float32 `[batch, *shape]`; row i depends on `seeds[i]` alone."""
    draw = _uniform if _by_xla() else tf.random.stateless_uniform
    return _per_image(draw, seeds, shape)


def _per_image(draw: Callable[..., tf.Tensor], seeds: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    # A map, not one draw for the batch: an image's noise must not depend on its neighbours.
    return tf.map_fn(
        lambda seed: draw(shape, seed=seed),
        seeds,
        fn_output_signature=tf.TensorSpec(shape, tf.float32),
    )


def _by_xla() -> bool:
    """Whether what is traced now will be compiled by XLA, which makes other floats of the bits."""
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _uniform(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """`tf.random.stateless_uniform` as its own kernels compute it, to the bit."""
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.uint32)
    mantissa = bits & tf.constant(0x7FFFFF, tf.uint32)
    return tf.bitcast(mantissa | tf.constant(0x3F800000, tf.uint32), tf.float32) - 1.0


def _normal(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """`tf.random.stateless_normal` as its own kernels compute it, within rounding: Box-Muller."""
    count = math.prod(shape)
    first, second = tf.unstack(tf.reshape(_uniform([-(-count // 4) * 4], seed), [-1, 2]), axis=1)
    radius, angle = tf.sqrt(-2 * tf.math.log(tf.maximum(first, 1e-7))), 2 * math.pi * second
    pairs = tf.stack([tf.sin(angle) * radius, tf.cos(angle) * radius], axis=1)
    return tf.reshape(tf.reshape(pairs, [-1])[:count], shape)


def fold(seeds: tf.Tensor, data: int | tf.Tensor) -> tf.Tensor:
    """Seeds of another stream for each image, int32 `[batch, 2]`: one per round, restart or draw.

    Args:
      seeds: int32 `[batch, 2]`.
      data: integer scalar that names the stream; equal numbers give equal seeds.
    """
    # Mixed into the word that holds the run's seed: streams of neighbouring images never meet.
    return seeds + tf.stack([(tf.cast(data, tf.int32) + 1) * 1_000_003, 0])[tf.newaxis]
