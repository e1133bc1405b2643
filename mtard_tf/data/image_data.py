"""`ImageData`: training, validation and test split of a data set in memory."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mtard_tf.data.streaming.stored_images import StoredImages

# What they do: mtard_tf.data.augmentation, which needs TensorFlow.
AUGMENTATIONS = ("none", "crop_flip", "crop_shift", "idbh_weak", "idbh_strong")
DEFAULT_VALIDATION_FRACTION = 0.1
MAX_DEFAULT_VALIDATION = 5_000


class DataError(ValueError):
    """A data set that cannot be read, written or used. The message is one line."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
      images: uint8 `[n, height, width, channels]`, 0 to 255; an array, or such as stay on disk.
      labels: int32 `[n]`, class ids.

    Raises:
      DataError: other shapes or dtypes, or different lengths.
    """

    images: np.ndarray | StoredImages
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(
                f"Split.images is {self.images.dtype} {self.images.shape}; give uint8 "
                "[n, height, width, channels]."
            )
        if self.labels.dtype != np.int32 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"Split.labels is {self.labels.dtype} {self.labels.shape} for "
                f"{len(self.images)} images; give int32 [{len(self.images)}]."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: np.ndarray) -> Split:
        """A copy of the examples at `places`, integers `[m]`, in that order."""
        return Split(self.images[places], self.labels[places])


@dataclasses.dataclass(frozen=True)
class ImageData:
    """An image-classification set, in memory or on disk.

    Attributes:
      name: of the set, for reports.
      label_names: one per class, by class id.
      train: the training images.
      validation: carved from the training split; chooses checkpoints.
      test: only for the final audit; label -1 for an image without a label.
      augmentation: "none", "crop_flip" (zero padding by 4, random crop, horizontal flip),
        "crop_shift", "idbh_weak" or "idbh_strong"; see `mtard_tf.data.augmentation`.

    Raises:
      DataError: unknown augmentation, splits of different image shapes, or a label without a name.
    """

    name: str
    label_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    augmentation: str = "none"

    def __post_init__(self) -> None:
        check_augmentation(self.augmentation, self.image_shape[-1])
        for role in ("train", "validation", "test"):
            split: Split = getattr(self, role)
            if split.images.shape[1:] != self.image_shape:
                raise DataError(
                    f"{self.name}: {role} images are {split.images.shape[1:]}, train images are "
                    f"{self.image_shape}; all splits need one shape."
                )
            lowest = -1 if role == "test" else 0
            labels = split.labels
            if len(split) and not lowest <= labels.min() <= labels.max() < self.num_classes:
                raise DataError(
                    f"{self.name}: {role} labels run from {split.labels.min()} to "
                    f"{split.labels.max()}, but there are {self.num_classes} label names; give "
                    "one name per class."
                )

    @classmethod
    def from_arrays(
        cls, x_train: Any, y_train: Any, x_test: Any, y_test: Any, *args: Any, **settings: Any
    ) -> ImageData:
        """A set of arrays; arguments and errors as `mtard_tf.data.from_arrays`."""
        from mtard_tf import data

        return data.from_arrays(x_train, y_train, x_test, y_test, *args, **settings)

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], *args: Any, **settings: Any) -> ImageData:
        """A set of a folder's images; arguments and errors as `mtard_tf.data.image_folder`."""
        from mtard_tf import data

        return data.image_folder(path, *args, **settings)

    def labelled(self, role: str, examples: int | None = None) -> Split:
        """At most `examples` images of a split (None: all), all of them labelled.

        Raises:
          DataError: some have no label.
        """
        split: Split = getattr(self, role)
        split = Split(split.images[:examples], split.labels[:examples])
        unlabelled = int((split.labels < 0).sum())
        if unlabelled:
            raise DataError(
                f"{self.name}: {unlabelled:,} of {len(split):,} {role} images have no label, so "
                "nothing can be counted on them; use another split (mtard-eval --split=validation) "
                "or another set."
            )
        return split

    def check_trainable(self) -> None:
        """Raises DataError for an empty split, or validation or test images in the training split.

        Only for training: a set that is only audited may use one split for all three.
        """
        for role in ("train", "validation"):
            if not len(getattr(self, role)):
                raise DataError(
                    f"{self.name}: the {role} split has no images; give it some, such as with "
                    "mtard_tf.data.carve_validation(train)."
                )
        for role in ("validation", "test"):
            if _one_memory(getattr(self, role).images, self.train.images):
                raise DataError(
                    f"{self.name}: the {role} images are training images; give each split its own."
                )

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def _one_memory(images: np.ndarray | StoredImages, others: np.ndarray | StoredImages) -> bool:
    if not isinstance(images, np.ndarray):
        return images.shares(others)
    if not isinstance(others, np.ndarray):
        return False
    try:
        # NumPy's stubs allow the two names of its limits only.
        return np.shares_memory(images, others, max_work=1)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return False  # interleaved views


def check_augmentation(name: str, channels: int = 3, what: str = "augmentation") -> None:
    """Refuses an augmentation that does not exist, or that does not suit the images.

    Args:
      name: of the augmentation.
      channels: of the images.
      what: the binding, for the message.

    Raises:
      DataError: one of the two.
    """
    if name not in AUGMENTATIONS:
        raise DataError(f"{what} is {name!r}; use one of {', '.join(AUGMENTATIONS)}.")
    if name.startswith("idbh") and channels not in (1, 3):
        raise DataError(
            f"{what} is {name!r}, whose colour operations take images of 1 or 3 channels, and the "
            f"images have {channels}; use 'crop_shift'."
        )


def carve_validation(
    split: Split, examples: int | None = None, *, seed: int = 0
) -> tuple[Split, Split]:
    """Divides a training split into (train, validation), stratified by class.

    Class c gives `examples * n_c / n` validation examples, rounded by largest remainder: the total
    is exact, and each class within one of its share. Both parts keep the order of
    `split`.

    Args:
      split: the training split, n examples.
      examples: validation size, 1 to n - 1. None means a tenth of n, at most 5,000.
      seed: chooses the validation examples; independent of a run's seed, so that all stages and
        runs hold out the same ones.

    Raises:
      DataError: `examples` out of range.
    """
    chosen = held_out(split.labels, examples, seed=seed)
    return split.take(np.flatnonzero(~chosen)), split.take(np.flatnonzero(chosen))


def validation_size(total: int, examples: int | None = None) -> int:
    """Number of validation examples of `total` training examples; as `carve_validation`."""
    if examples is None:
        examples = min(int(total * DEFAULT_VALIDATION_FRACTION), MAX_DEFAULT_VALIDATION)
    if not 0 < examples < total:
        raise DataError(
            f"validation_examples is {examples} of {total} training examples; give 1 to "
            f"{total - 1}: checkpoints are chosen on the validation split."
        )
    return examples


def held_out(labels: np.ndarray, examples: int | None = None, *, seed: int = 0) -> np.ndarray:
    """Mask of the examples that `carve_validation` holds out, bool `[n]`."""
    total = len(labels)
    examples = validation_size(total, examples)
    classes, counts = np.unique(labels, return_counts=True)
    shares = examples * counts / total
    sizes = np.floor(shares).astype(int)
    by_remainder = np.argsort(sizes - shares, kind="stable")
    sizes[by_remainder[: examples - sizes.sum()]] += 1
    # RandomState, not default_rng: its stream is guaranteed not to change with NumPy.
    random = np.random.RandomState(seed)
    chosen = np.zeros(total, bool)
    for label, size in zip(classes, sizes, strict=True):
        places = np.flatnonzero(labels == label)
        chosen[random.permutation(places)[:size]] = True
    return chosen
