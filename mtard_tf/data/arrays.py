"""Arrays in memory as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtard_tf.data.image_data import DataError, ImageData, Split, carve_validation


def from_arrays(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    label_names: Sequence[str] | None = None,
    *,
    name: str = "arrays",
    validation_examples: int | None = None,
    split_seed: int = 0,
    augmentation: str | None = None,
) -> ImageData:
    """A set of arrays; the same as a TFDS set of these examples in this order.

    Args:
      x_train: images `[n, height, width, channels]` or `[n, height, width]` (grey): uint8, or float
        in [0, 1], which becomes the nearest of 256 levels.
      y_train: labels `[n]` or `[n, 1]`, any integers from 0 to the number of classes - 1.
      x_test: as `x_train`, for the final audit only.
      y_test: as `y_train`.
      label_names: one per class; None means "0", "1", ..., of which each has training images.
      name: what reports call the set.
      validation_examples: how many training examples are held out, class by class, to choose
        checkpoints; None means a tenth, at most 5,000.
      split_seed: chooses them.
      augmentation: "none", "crop_flip", "crop_shift", "idbh_weak" or "idbh_strong"; None means
        "crop_flip" for colour images and "none" for grey ones.

    Raises:
      DataError: another dtype, shape or range, or labels that are not 0 to n - 1.
    """
    train = Split(images("x_train", x_train), labels("y_train", y_train, len(x_train)))
    test = Split(images("x_test", x_test), labels("y_test", y_test, len(x_test)))
    names = _label_names(train.labels, label_names)
    if len(test) and test.labels.max() >= len(names):
        raise DataError(
            f"y_test has the label {test.labels.max()}, and there are {len(names)} classes; give "
            f"labels from 0 to {len(names) - 1}."
        )
    train, validation = carve_validation(train, validation_examples, seed=split_seed)
    if augmentation is None:
        augmentation = "crop_flip" if train.images.shape[-1] == 3 else "none"
    return ImageData(name, names, train, validation, test, augmentation)


def images(name: str, values: Any) -> np.ndarray:
    """Images as uint8 `[n, height, width, channels]`.

    Args:
      name: of the argument, for messages.
      values: see `from_arrays`.

    Raises:
      DataError: another dtype, shape or range.
    """
    array = np.asarray(values)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not array.size:
        raise DataError(
            f"{name} has the shape {array.shape}; give [n, height, width, channels], or [n, "
            "height, width] for grey images."
        )
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{name} is {array.dtype}; give uint8 in 0..255, or float in [0, 1].")
    lowest, highest = array.min(), array.max()
    if not (lowest >= 0 and highest <= 1):  # also where one is not a number
        raise DataError(
            f"{name} runs from {lowest:g} to {highest:g}; give floats in [0, 1]: divide by 255, or "
            "undo the normalisation, which belongs into the model."
        )
    return np.rint(array * 255).astype(np.uint8)


def labels(name: str, values: Any, count: int) -> np.ndarray:
    """Labels as int32 `[count]`; arguments and errors as in `images`."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (count,):
        raise DataError(
            f"{name} has the shape {array.shape} for {count:,} images; give one integer per image "
            "(np.argmax(y, axis=1) of one-hot labels)."
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{name} is {array.dtype}; give integers from 0 on.")
    wrong = [label for label in (array.min(), array.max()) if not 0 <= label < 2**31]
    if wrong:
        raise DataError(f"{name} has the label {wrong[0]}; give integers from 0 on.")
    return array.astype(np.int32)


def _label_names(found: np.ndarray, label_names: Sequence[str] | None) -> tuple[str, ...]:
    present = np.unique(found)
    classes = len(present) if label_names is None else len(label_names)
    if classes < 2:
        raise DataError("y_train has one class; give images of two or more.")
    if present[-1] < classes:
        return tuple(map(str, range(classes) if label_names is None else label_names))
    if label_names is not None:
        raise DataError(
            f"y_train has the label {present[-1]}, and there are {classes} label names; give one "
            "per class."
        )
    raise DataError(
        f"y_train has {classes} different labels, from {present[0]} to {present[-1]}; number them "
        f"0 to {classes - 1} (np.unique(y, return_inverse=True)[1]), or give label_names."
    )
