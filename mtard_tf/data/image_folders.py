"""A folder of image files as a data set in memory, with no step between."""

from __future__ import annotations

import os

import numpy as np

from mtard_tf.data.image_data import ImageData, Split, check_augmentation
from mtard_tf.data.photo_folders import list_photos
from mtard_tf.data.photos import Reader
from mtard_tf.data.tfds_sets import MAX_BYTES, check_bytes
from mtard_tf.data.tfds_splits import carve

SIZE, CHANNELS = 64, 3


def image_folder(
    path: str | os.PathLike[str],
    size: int = SIZE,
    splits: str | None = None,
    *,
    channels: int = CHANNELS,
    skip_broken: bool = False,
    augmentation: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> ImageData:
    """The PNG, JPEG, WebP, BMP and GIF files of a folder: one folder per class.

    The same examples, in the same order, as `mtard-data import images` writes of the folder. Every
    image becomes `size` x `size`: its middle square, resized; `photos.decode` says what happens to
    orientation, transparency and depth.

    Args:
      path: has a folder per class, or train, test and optionally validation folders above these;
        without a validation folder, a tenth of train is held out as for other sets.
      size: height and width.
      splits: percentages of train, validation and test, "80/10/10" by default; for a folder that is
        not divided yet.
      channels: 3, or 1 for grey.
      skip_broken: leave out what cannot be decoded; otherwise it is refused.
      augmentation: "none", "crop_flip", "crop_shift", "idbh_weak" or "idbh_strong"; None means
        "crop_flip" for colour images and "none" for grey ones.
      max_bytes: refuse a folder that takes more than this when decoded.

    Raises:
      DataError: broken files, one image in two splits, classes that are too small, or see
        `photo_folders.list_photos`.
    """
    if augmentation is not None:
        check_augmentation(augmentation)
    listing = list_photos(path, splits)
    reader = Reader(listing, size, channels)
    count = sum(map(len, listing.photos.values()))
    check_bytes(str(listing.source), count * size * size * channels, max_bytes)
    read = {role: _split(reader, role, len(photos)) for role, photos in listing.photos.items()}
    reader.check(skip_broken)
    if "validation" not in read:
        read["train"], read["validation"] = carve(read["train"], None, 0)
    return ImageData(
        name=listing.source.resolve().name,
        label_names=listing.label_names,
        **read,
        augmentation=augmentation or ("crop_flip" if channels == 3 else "none"),
    )


def _split(reader: Reader, role: str, count: int) -> Split:
    images = np.empty((count, *reader.image_shape), np.uint8)
    labels = np.empty(count, np.int32)
    stop = 0
    for stop, (pixels, label) in enumerate(reader.examples(role), 1):
        images[stop - 1], labels[stop - 1] = pixels, label
    return Split(images[:stop], labels[:stop])
