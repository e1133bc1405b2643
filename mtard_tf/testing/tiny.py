"""Three classes of coloured squares, made in a millisecond."""

from __future__ import annotations

import numpy as np

from mtard_tf.data.image_data import ImageData, Split


def tiny_data(train: int = 40, validation: int = 12, test: int = 24) -> ImageData:
    """Three classes of 8x8 colour images: the class is the bright channel.

    Args:
      train, validation, test: images in each split; the same numbers give the same images.
    """
    random = np.random.RandomState(0)

    def split(count: int) -> Split:
        labels = (np.arange(count) % 3).astype(np.int32)
        images = random.randint(0, 120, (count, 8, 8, 3))
        images[np.arange(count), :, :, labels] += 100
        return Split(images.astype(np.uint8), labels)

    return ImageData("tiny", ("red", "green", "blue"), split(train), split(validation), split(test))
