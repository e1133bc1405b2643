"""Batches as a pure function of (seed, step), so that a resumed run sees the same batches.

The order of epoch e of a training depends on (seed, e) alone, and the augmentation of an image on
(seed, id): its id is the position in the stream, `epoch * n + position` without extra images, and
so unique. The last batch of an epoch is short if the batch size does not divide n.

With several replicas each batch has as many parts: part r of a batch of b images is its rows
`b * r // replicas` to `b * (r + 1) // replicas`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from mtard_tf.data.augmentation import augmented
from mtard_tf.data.extra import Extra
from mtard_tf.data.image_data import DataError, ImageData, Split
from mtard_tf.data.streaming import array_records
from mtard_tf.data.streaming.stored_images import StoredImages, joined

_PREFETCHED_BATCHES = 4
# Nothing here branches on tensors, which AutoGraph finds out more slowly than tracing takes.
_plain = tf.autograph.experimental.do_not_convert


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Batches per epoch, the last one possibly short: ceil(examples / batch_size)."""
    return -(-examples // batch_size)


@_plain
def training_batches(
    data: ImageData,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    start_step: int = 0,
    parts: Sequence[int] = (0,),
    replicas: int = 1,
    tensors: Sequence[tf.Tensor | StoredImages] | None = None,
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
    order = _Order(examples, batch_size, seed, tuple(parts), replicas, extra)
    count = (epochs * order.per_epoch - start_step) * len(parts)

    def examples_of(read: tf.Tensor, places: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, ...]:
        batch = augmented(data.augmentation, read, ids, seed)
        rows = [tf.gather(tensor, places) for tensor in (labels, *further)]
        return to_float(batch), rows[0], ids, *rows[1:]

    if isinstance(images, StoredImages):
        turns = functools.partial(order.turn, start_step * len(parts))
        batches = array_records.batches(images, turns, count).map(examples_of)
    else:
        batches = order.places_and_ids(epochs, start_step)
        batches = batches.apply(tf.data.experimental.assert_cardinality(count)).map(
            lambda places, ids: examples_of(tf.gather(images, places), places, ids)
        )
    return batches.prefetch(_PREFETCHED_BATCHES)


def _check_start(examples: int, batch_size: int, epochs: int, start_step: int) -> None:
    _check_positive(batch_size=batch_size, epochs=epochs, training_examples=examples)
    per_epoch = steps_per_epoch(examples, batch_size)
    if not 0 <= start_step <= epochs * per_epoch:
        raise DataError(
            f"start_step is {start_step}; {epochs} epochs of {per_epoch} batches allow 0 to "
            f"{epochs * per_epoch}."
        )


@dataclasses.dataclass(frozen=True)
class _Order:
    """Which images each batch of a training has; attributes as the arguments above."""

    examples: int
    batch_size: int
    seed: int
    parts: tuple[int, ...]
    replicas: int
    extra: Extra | None = dataclasses.field(compare=False)

    @property
    def per_epoch(self) -> int:
        return steps_per_epoch(self.examples, self.batch_size)

    def places_and_ids(self, epochs: int, start_step: int) -> tf.data.Dataset:
        """(positions in the split, ids) of the images of each part of each batch."""
        first_epoch, first_batch = divmod(start_step, self.per_epoch)
        own, count = tf.constant(self.parts, tf.int64), len(self.parts)

        def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
            order = self.of_epoch(epoch)
            start = tf.where(epoch == first_epoch, tf.constant(first_batch, tf.int64), 0)
            turns = tf.data.Dataset.range(start * count, self.per_epoch * count)
            return turns.map(
                lambda turn: self._part(order, epoch, turn // count, tf.gather(own, turn % count))
            )

        return tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_batches)

    def turn(self, first: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Element `first + number` of `places_and_ids(epochs, 0)`, found without those before."""
        step, place = divmod(first + number, len(self.parts))
        epoch, batch = (tf.constant(n, tf.int64) for n in divmod(step, self.per_epoch))
        with tf.device("CPU:0"):
            part = tf.constant(self.parts[place], tf.int64)
            places, ids = self._part(_kept_order(self, int(epoch)), epoch, batch, part)
        return places.numpy(), ids.numpy()

    def of_epoch(self, epoch: tf.Tensor) -> tf.Tensor:
        """All positions in the split, in the order of an epoch, int32 `[examples]`."""
        key = tf.stack([tf.constant(self.seed, tf.int64), epoch])
        return tf.random.experimental.stateless_shuffle(tf.range(self.examples), seed=key)

    def _part(
        self, order: tf.Tensor, epoch: tf.Tensor, batch: tf.Tensor, part: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if self.extra is not None:
            size, first = self.batch_size, epoch * self.per_epoch
            places, ids = self.extra.places(order, first + batch, first, size, self.seed)
            start, stop = size * part // self.replicas, size * (part + 1) // self.replicas
            return places[start:stop], ids[start:stop]
        first = batch * self.batch_size
        size = tf.minimum(self.examples - first, self.batch_size)
        start = first + size * part // self.replicas
        stop = first + size * (part + 1) // self.replicas
        return order[start:stop], epoch * self.examples + tf.range(start, stop)


@functools.lru_cache(maxsize=2)  # a batch of the next epoch may be read before the last of this one
def _kept_order(order: _Order, epoch: int) -> tf.Tensor:
    return order.of_epoch(tf.constant(epoch, tf.int64))


def training_tensors(
    data: ImageData, extra: Extra | None = None
) -> tuple[tf.Tensor | StoredImages, tf.Tensor]:
    """Images and labels of the training split, and of the extra images after it.

    Both are tensors, unless some of the images stay on disk.
    """
    images, labels = data.train.images, tf.constant(data.train.labels)
    if extra is None:
        return images if isinstance(images, StoredImages) else tf.constant(images), labels
    labels = tf.concat([labels, extra.split.labels], 0)
    if isinstance(images, StoredImages) or isinstance(extra.split.images, StoredImages):
        return joined(images, extra.split.images), labels
    return tf.concat([images, extra.split.images], 0), labels


def check_batches(examples: int, batch_size: int, replicas: int) -> None:
    """Raises DataError if the last batch of an epoch has fewer images than there are replicas."""
    shortest = examples - (steps_per_epoch(examples, batch_size) - 1) * batch_size
    if shortest < replicas:
        raise DataError(
            f"The last batch of an epoch has {shortest} of {examples} images for {replicas} "
            f"replicas; give a batch_size other than {batch_size}."
        )


@_plain
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
    labels, count = tf.constant(split.labels[:examples]), steps_per_epoch(examples, batch_size)
    if isinstance(split.images, StoredImages):
        return _stored_batches(split.images, labels, batch_size, count)
    images = tf.constant(split.images[:examples])

    def examples_of(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        start = batch * batch_size
        stop = tf.minimum(start + batch_size, examples)
        return to_float(images[start:stop]), labels[start:stop], tf.range(start, stop)

    return tf.data.Dataset.range(count).map(examples_of).prefetch(_PREFETCHED_BATCHES)


def _stored_batches(
    images: StoredImages, labels: tf.Tensor, batch_size: int, count: int
) -> tf.data.Dataset:
    def turn(batch: int) -> tuple[np.ndarray, np.ndarray]:
        places = np.arange(batch * batch_size, min((batch + 1) * batch_size, len(labels)))
        return places, places

    def examples_of(read: tf.Tensor, places: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return to_float(read), tf.gather(labels, places), ids

    batches = array_records.batches(images, turn, count)
    return batches.map(examples_of).prefetch(_PREFETCHED_BATCHES)


def to_float(images: tf.Tensor | np.ndarray) -> tf.Tensor:
    """uint8 images, 0 to 255, as float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise DataError(f"{name} is {size}; give an integer >= 1.")
