"""Batches as a pure function of (seed, step), so that a resumed run sees the same batches.

The order of epoch e of a training depends on (seed, e) alone, and the augmentation of an image on
(seed, id): its id is the position in the stream, `epoch * n + position` without extra images, and
so unique. The last batch of an epoch is short if the batch size does not divide n.

With several replicas each batch has as many parts: part r of a batch of b images is its rows
`b * r // replicas` to `b * (r + 1) // replicas`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mtard_tf.data.augmentation import augmented
from mtard_tf.data.extra import Extra
from mtard_tf.data.image_data import DataError, ImageData, Split

_PREFETCHED_BATCHES = 4


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Batches per epoch, the last one possibly short: ceil(examples / batch_size)."""
    return -(-examples // batch_size)


def training_batches(
    data: ImageData,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    start_step: int = 0,
    parts: Sequence[int] = (0,),
    replicas: int = 1,
    tensors: Sequence[tf.Tensor] | None = None,
    extra: Extra | None = None,
) -> tf.data.Dataset:
    """`epochs * ceil(n / batch_size)` shuffled, augmented batches of the training split.

    Args:
      data: its training split and `augmentation` are used.
      batch_size: images per batch, over all replicas.
      epochs: passes over the training split.
      seed: integer, for the order and the augmentation.
      start_step: batches to skip, for resuming; 0 to `epochs * ceil(n / batch_size)`.
      parts: the parts of each batch that this process takes, each as an element of its own.
      replicas: number of parts of each batch.
      tensors: `training_tensors(data, extra)`, to share one copy of the images among calls; each
        batch also gets the rows of further tensors `[n, ...]` after these two.
      extra: further images, after the training split in `tensors`; see `Extra`. None for none.

    Returns:
      A dataset of (images float32 `[batch, h, w, c]` in [0, 1], labels int32 `[batch]`,
      ids int64 `[batch]`, and rows of further tensors).

    Raises:
      DataError: a size below 1, `start_step` out of range, or a batch smaller than `replicas`.
    """
    examples = len(data.train)
    _check_start(examples, batch_size, epochs, start_step)
    check_batches(batch_size if extra else examples, batch_size, replicas)
    images, labels, *further = tensors or training_tensors(data, extra)

    def examples_of(places: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, ...]:
        batch = augmented(data.augmentation, tf.gather(images, places), ids, seed)
        rows = [tf.gather(tensor, places) for tensor in (labels, *further)]
        return to_float(batch), rows[0], ids, *rows[1:]

    order = _places_and_ids(examples, batch_size, epochs, seed, start_step, parts, replicas, extra)
    return order.map(examples_of).prefetch(_PREFETCHED_BATCHES)


def _check_start(examples: int, batch_size: int, epochs: int, start_step: int) -> None:
    _check_positive(batch_size=batch_size, epochs=epochs, training_examples=examples)
    per_epoch = steps_per_epoch(examples, batch_size)
    if not 0 <= start_step <= epochs * per_epoch:
        raise DataError(
            f"start_step is {start_step}; {epochs} epochs of {per_epoch} batches allow 0 to "
            f"{epochs * per_epoch}."
        )


def _places_and_ids(
    examples: int,
    batch_size: int,
    epochs: int,
    seed: int,
    start_step: int,
    parts: Sequence[int],
    replicas: int,
    extra: Extra | None,
) -> tf.data.Dataset:
    """(positions in the split, ids) of the images of each batch; arguments as above."""
    per_epoch = steps_per_epoch(examples, batch_size)
    first_epoch, first_batch = divmod(start_step, per_epoch)
    own = tf.constant(parts, tf.int64)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(examples), seed=key)

        def batch_part(turn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch, part = turn // len(parts), tf.gather(own, turn % len(parts))
            if extra is not None:
                first = epoch * per_epoch
                places, ids = extra.places(order, first + batch, first, batch_size, seed)
                start, stop = batch_size * part // replicas, batch_size * (part + 1) // replicas
                return places[start:stop], ids[start:stop]
            first = batch * batch_size
            size = tf.minimum(examples - first, batch_size)
            start, stop = first + size * part // replicas, first + size * (part + 1) // replicas
            return order[start:stop], epoch * examples + tf.range(start, stop)

        start_batch = tf.where(epoch == first_epoch, tf.constant(first_batch, tf.int64), 0)
        turns = tf.data.Dataset.range(start_batch * len(parts), per_epoch * len(parts))
        return turns.map(batch_part)

    count = (epochs * per_epoch - start_step) * len(parts)
    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_batches)
    return batches.apply(tf.data.experimental.assert_cardinality(count))


def training_tensors(data: ImageData, extra: Extra | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Images and labels of the training split, and of the extra images after it, as tensors."""
    if extra is None:
        return tf.constant(data.train.images), tf.constant(data.train.labels)
    splits = data.train, extra.split
    return tf.concat([s.images for s in splits], 0), tf.concat([s.labels for s in splits], 0)


def check_batches(examples: int, batch_size: int, replicas: int) -> None:
    """Raises DataError if the last batch of an epoch has fewer images than there are replicas."""
    shortest = examples - (steps_per_epoch(examples, batch_size) - 1) * batch_size
    if shortest < replicas:
        raise DataError(
            f"The last batch of an epoch has {shortest} of {examples} images for {replicas} "
            f"replicas; give a batch_size other than {batch_size}."
        )


def evaluation_batches(
    split: Split, batch_size: int, examples: int | None = None
) -> tf.data.Dataset:
    """One pass over the split in its own order, without augmentation; the last batch may be short.

    Args:
      split: what to evaluate on.
      batch_size: images per batch.
      examples: at most this many images, from the first on; None for all.

    Returns:
      A dataset of (images float32 `[batch, h, w, c]` in [0, 1], labels int32 `[batch]`,
      ids int64 `[batch]`); an id is the position in the split.

    Raises:
      DataError: a size below 1, or an empty split.
    """
    examples = len(split) if examples is None else min(examples, len(split))
    _check_positive(batch_size=batch_size, examples=examples)
    images, labels = tf.constant(split.images[:examples]), tf.constant(split.labels[:examples])

    def examples_of(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        start = batch * batch_size
        stop = tf.minimum(start + batch_size, examples)
        return to_float(images[start:stop]), labels[start:stop], tf.range(start, stop)

    batches = tf.data.Dataset.range(steps_per_epoch(examples, batch_size)).map(examples_of)
    return batches.prefetch(_PREFETCHED_BATCHES)


def to_float(images: tf.Tensor | np.ndarray) -> tf.Tensor:
    """uint8 images, 0 to 255, as float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise DataError(f"{name} is {size}; give an integer >= 1.")
