"""Randomness per image: a stateless seed for each, so that batching and sharding change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


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
    return _per_image(tf.random.stateless_normal, seeds, shape)


def uniform(seeds: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Uniform [0, 1) float32 `[batch, *shape]`; row i depends on `seeds[i]` alone."""
    return _per_image(tf.random.stateless_uniform, seeds, shape)


def _per_image(draw: Callable[..., tf.Tensor], seeds: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    # A map, not one draw for the batch: an image's noise must not depend on its neighbours.
    return tf.map_fn(
        lambda seed: draw(shape, seed=seed),
        seeds,
        fn_output_signature=tf.TensorSpec(shape, tf.float32),
    )


def fold(seeds: tf.Tensor, data: int | tf.Tensor) -> tf.Tensor:
    """Seeds of another stream for each image, int32 `[batch, 2]`: one per round, restart or draw.

    Args:
      seeds: int32 `[batch, 2]`.
      data: integer scalar that names the stream; equal numbers give equal seeds.
    """
    # Mixed into the word that holds the run's seed: streams of neighbouring images never meet.
    return seeds + tf.stack([(tf.cast(data, tf.int32) + 1) * 1_000_003, 0])[tf.newaxis]
