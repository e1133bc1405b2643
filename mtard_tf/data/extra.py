"""Extra images, such as generated ones, that fill a share of every training batch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from mtard_tf.data import draws
from mtard_tf.data.image_data import DataError, ImageData, Split, held_out

# Place of the number that draws an extra image, beyond those of the augmentations.
_DRAW = 1000


@dataclasses.dataclass(frozen=True)
class Extra:
    """Extra images and their share of a batch.

    As in Wang et al. (ICML 2023, arXiv 2302.04638; github.com/wzekai99/DM-Improves-AT,
    core/data/semisup.py:222-262): of a batch of B, `int(B * share)` are extra images, drawn
    uniformly with replacement, and the others real ones, each at most once in an epoch. An epoch
    has as many batches as the real images alone would fill, so it shows 1 - share of them. Batches
    are always full: where the real images run out, extra ones take their places.

    Attributes:
      split: the images; label -1 for an image without a label.
      share: of a batch, above 0 and below 1.
      fingerprint: of images and labels as they were read.
    """

    split: Split
    share: float
    fingerprint: str = ""

    @property
    def unlabelled(self) -> int:
        """Number of images without a label."""
        return int((self.split.labels < 0).sum())

    def count(self, batch_size: int) -> int:
        """Extra images in a batch: `int(batch_size * share)`, as the official code truncates."""
        return int(batch_size * self.share)

    def places(
        self, order: tf.Tensor, number: tf.Tensor, first: tf.Tensor, batch_size: int, seed: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The images of a batch: int32 positions among the real and then the extra ones, and ids.

        Args:
          order: the real images in the order of the epoch, int32 `[n]`; extra ones follow n - 1.
          number: of the batch in the whole training, int64.
          first: number of its epoch's first batch.
          batch_size: over all replicas.
          seed: integer.

        Returns:
          Both `[batch_size]`, in an order that mixes them, so that each replica has its share; an
          id is the position in the stream, `number * batch_size + position`.
        """
        real = batch_size - self.count(batch_size)
        start = (number - first) * real
        chosen = order[start : start + real]
        ids = number * batch_size + tf.range(batch_size, dtype=tf.int64)
        missing = batch_size - tf.size(chosen)
        numbers = draws.uniform(ids[:missing], seed, 1, _DRAW)[:, 0]
        drawn = tf.size(order) + draws.whole(numbers, len(self.split))
        # Epochs shuffle with (seed, epoch), which is never negative.
        key = tf.stack([tf.constant(seed, tf.int64), -1 - number])
        shuffled = tf.random.experimental.stateless_shuffle(tf.range(batch_size), seed=key)
        return tf.gather(tf.concat([chosen, drawn], 0), shuffled), ids


def check_extra(what: str, extra: Extra, data: ImageData, batch_size: int) -> None:
    """Refuses extra images that do not suit a data set.

    Args:
      what: the stage's scope, for messages.
      extra: of the stage.
      data: which they are added to.
      batch_size: over all replicas.

    Raises:
      DataError: no images, images of another shape, labels that the data set does not have, images
        of its validation or test split, or a share that is less than one image of a batch.
    """
    split = extra.split
    if not len(split):
        raise DataError(f"{what}/Stage.extra has no images; give some, or None.")
    if split.images.shape[1:] != data.image_shape:
        raise DataError(
            f"{what}/Stage.extra has images of shape {split.images.shape[1:]} and {data.name} of "
            f"{data.image_shape}; bring them to one shape."
        )
    if split.labels.max() >= data.num_classes or split.labels.min() < -1:
        raise DataError(
            f"{what}/Stage.extra has labels from {split.labels.min()} to {split.labels.max()}; "
            f"{data.name} has {data.num_classes} classes: give 0 to {data.num_classes - 1}, or -1 "
            "for an image without a label."
        )
    if not extra.count(batch_size):
        raise DataError(
            f"{what}/Stage.extra_share is {extra.share}, which is no image in a batch of "
            f"{batch_size}; give at least {1 / batch_size:.3g}, or no Stage.extra."
        )
    for role in ("validation", "test"):
        shared = _shared(split.images, getattr(data, role).images)
        if shared:
            raise DataError(
                f"{what}/Stage.extra has {shared:,} of the {role} images of {data.name}, which "
                "nothing may be trained on; take them out."
            )


def _shared(images: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> int:
    """How many of `images` are also among `others`, by content."""
    known = {_print(image) for image in others}
    return sum(_print(image) in known for image in images)


def _print(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def part(of: ImageData, examples: int, seed: int = 0) -> ImageData:
    """A set with some of its training images only, class by class; its other splits stay.

    Args:
      of: the set, `@datasets.fashion_mnist()` in gin, with the parentheses.
      examples: how many training images.
      seed: chooses them.

    Raises:
      DataError: not a number of images that leaves some over.
    """
    return dataclasses.replace(of, train=of.train.take(np.flatnonzero(_chosen(of, examples, seed))))


def rest(of: ImageData, examples: int, seed: int = 0) -> Split:
    """The training images that `part` leaves out, without labels (-1), as `Stage.extra`.

    Arguments and errors are those of `part`.
    """
    left = ~_chosen(of, examples, seed)
    images = of.train.images[np.flatnonzero(left)]
    return Split(images, np.full(len(images), -1, np.int32))


def _chosen(of: ImageData, examples: int, seed: int) -> np.ndarray:
    if not isinstance(of, ImageData):
        raise DataError(
            f"The set to take a part of is {of!r}; give one, such as @datasets.fashion_mnist()."
        )
    count = len(of.train)
    if not 0 < examples < count:
        raise DataError(
            f"A part of {examples:,} of the {count:,} training images of {of.name} leaves none; "
            f"give datasets.part.examples from 1 to {count - 1:,}."
        )
    return held_out(of.train.labels, examples, seed=seed)
