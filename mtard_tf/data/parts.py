"""A part of a set's training images, and the rest of them without their labels."""

from __future__ import annotations

import dataclasses

import numpy as np

from mtard_tf.data.image_data import DataError, ImageData, Split, held_out


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
