"""Image-classification sets in TFDS format, in memory or on disk. Never uses the network."""

from __future__ import annotations

import functools
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from mtard_tf.data import catalogue, writing
from mtard_tf.data.image_data import (
    DataError,
    ImageData,
    Split,
    check_augmentation,
    validation_size,
)
from mtard_tf.data.tfds_splits import carve, damaged, read_split

MAX_BYTES = 8 * 2**30
_MAKE_ONE = "write a set of your own with both, see mtard_tf.data.writing."


def tfds(
    name: str,
    data_dir: str | None = None,
    *,
    validation_examples: int | None = None,
    split_seed: int = 0,
    augmentation: str | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    test_split: str | None = None,
    max_bytes: int = MAX_BYTES,
    stream: bool | None = None,
) -> ImageData:
    """Any prepared TFDS image-classification set, by name.

    Args:
      name: as TFDS writes it: "cifar10", "cifar10:3.0.2", "mnist_corrupted/fog", "a/config:1.0.0".
        Without a version, the newest prepared one.
      data_dir: the folder of prepared sets. None means TFDS' default: $TFDS_DATA_DIR, or
        ~/tensorflow_datasets.
      validation_examples: how many training examples are held out, class by class. None means the
        set's own validation split, if it has one beside its test split; otherwise a tenth of the
        training examples, at most 5,000. The test split is never used for it.
      split_seed: chooses them; use the same for all stages.
      augmentation: "none", "crop_flip", "crop_shift", "idbh_weak" or "idbh_strong"; None means
        "crop_flip" for colour images and "none" for grey ones.
      image_key: the image's feature; None means the set's supervised key, or its only image.
      label_key: the label's feature (cifar100 has "label" and "coarse_label"); None as above.
      test_split: a whole split other than "train"; None means "test", or "validation" where there
        is no "test". It may be without labels (-1): then it cannot be audited.
      max_bytes: the limit on decoded images in memory; held-out images count twice.
      stream: whether the images stay on disk, for which the set must be in ArrayRecord. None means
        where they take more than `max_bytes`. The batches are the same, to the bit.

    Raises:
      DataError: the set is not prepared, is not one image of fixed size with one label, is larger
        than `max_bytes` and not to be streamed, is to be streamed and not in ArrayRecord, lacks a
        split, or `test_split` has training images.
    """
    return read(
        catalogue.prepared_directory(name, data_dir),
        validation_examples=validation_examples,
        split_seed=split_seed,
        augmentation=augmentation,
        image_key=image_key,
        label_key=label_key,
        test_split=test_split,
        max_bytes=max_bytes,
        stream=stream,
    )


def read(
    directory: str | os.PathLike[str],
    *,
    validation_examples: int | None = None,
    split_seed: int = 0,
    augmentation: str | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    test_split: str | None = None,
    max_bytes: int = MAX_BYTES,
    stream: bool | None = None,
) -> ImageData:
    """The set whose `dataset_info.json` lies in `directory`; arguments as in `tfds`."""
    import tensorflow_datasets

    if augmentation is not None:
        check_augmentation(augmentation)
    catalogue.check_features(pathlib.Path(directory))
    try:
        builder = tensorflow_datasets.builder_from_directory(os.fspath(directory))
    except Exception as error:  # TFDS raises various errors for damaged folders
        raise damaged(directory, error) from error
    keys = _keys(builder.info, image_key, label_key)
    shape = _image_shape(builder.info, keys[0])
    test_split = _test_split(builder.info, test_split)
    own = validation_examples is None and "validation" in {*builder.info.splits} - {test_split}
    size = _decoded_bytes(builder.info, shape, test_split, own, validation_examples)
    opened = functools.partial(_reader(builder, stream, size, max_bytes), builder)
    train = opened("train", keys, shape)
    if own:
        validation = opened("validation", keys, shape)
    else:
        train, validation = carve(train, validation_examples, split_seed)
    return ImageData(
        name=builder.info.name,
        label_names=tuple(builder.info.features[keys[1]].names),
        train=train,
        validation=validation,
        test=opened(test_split, keys, shape),
        augmentation=augmentation or ("crop_flip" if shape[-1] == 3 else "none"),
    )


def _keys(info: Any, image_key: str | None, label_key: str | None) -> tuple[str, str]:
    """The names of the image and of the label feature."""
    import tensorflow_datasets

    features = info.features
    supervised = info.supervised_keys or (None, None)

    def choose(kind: type, key: str | None, position: int, argument: str) -> str:
        fitting = sorted(name for name in features if isinstance(features[name], kind))
        for name in fitting:
            if name == (key or supervised[position]):
                return name
        if key is None and len(fitting) == 1:
            return fitting[0]
        raise DataError(
            f"{info.name} has the {kind.__name__} features ({', '.join(fitting) or 'none'}) and "
            f"{argument} is {key!r}; one image and one label are needed: name a fitting feature, "
            "or use another set."
        )

    return (
        choose(tensorflow_datasets.features.Image, image_key, 0, "image_key"),
        choose(tensorflow_datasets.features.ClassLabel, label_key, 1, "label_key"),
    )


def _image_shape(info: Any, key: str) -> tuple[int, int, int]:
    feature = info.features[key]
    if None in feature.shape or len(feature.shape) != 3:
        raise DataError(
            f"{info.name} has images of shape {feature.shape}; a fixed [height, width, channels] "
            "is needed: resize them into a set of your own."
        )
    if feature.np_dtype != np.uint8:
        raise DataError(
            f"{info.name} has {np.dtype(feature.np_dtype)} images; uint8 is needed: convert them "
            "into a set of your own."
        )
    return feature.shape


def _test_split(info: Any, wanted: str | None) -> str:
    available = list(info.splits)
    others = [name for name in available if name != "train"]
    # TFDS writes parts and sums of splits as "train[:80%]" and "test+train"; "all" has every one.
    parts = re.split(r"[+\[]", wanted or "")
    if {"train", "all"} & {part.strip() for part in parts}:
        raise DataError(
            f"test_split is {wanted!r} of {info.name}, which is trained on; "
            + (f"name one of {', '.join(others)}." if others else _MAKE_ONE)
        )
    tests = [wanted] if wanted else ["test", "validation"]
    found = [name for name in tests if name in others]
    if "train" not in available or not found:
        named = "train" in available and others
        raise DataError(
            f"{info.name} has the splits ({', '.join(available)}); 'train' and "
            f"{' or '.join(map(repr, tests))} are needed: "
            + ("name a whole one with test_split." if named else _MAKE_ONE)
        )
    return found[0]


def _decoded_bytes(
    info: Any, shape: tuple[int, ...], test_split: str, own: bool, held_out: int | None
) -> int:
    """How much memory the set takes."""
    sizes = {name: split.num_examples for name, split in info.splits.items()}
    # Held-out images are copied, and their memory in the training images is not freed.
    validation = sizes["validation"] if own else validation_size(sizes["train"], held_out)
    return (sizes["train"] + sizes[test_split] + validation) * int(np.prod(shape))


def _reader(builder: Any, stream: bool | None, size: int, max_bytes: int) -> Callable[..., Split]:
    """What reads a split; refuses a set that is too large for memory, or cannot be streamed."""
    info, stored = builder.info, builder.info.file_format.value
    command = f"`mtard-data convert {info.full_name.rpartition('/')[0]} --out=DIR`"
    if stream and stored != writing.ARRAY_RECORD:
        raise DataError(
            f"{info.name} is in {stored} format, and stream=True needs array_record; convert it "
            f"once with {command}, and give data_dir=DIR."
        )
    if stream or (stream is None and size > max_bytes and stored == writing.ARRAY_RECORD):
        from mtard_tf.data.streaming.array_records import open_split

        return open_split
    remedy = f"or convert it once with {command}, and stream it from data_dir=DIR."
    if stored == writing.ARRAY_RECORD:
        remedy = "or do not give stream=False."
    check_bytes(info.name, size, max_bytes, remedy)
    return read_split


def check_bytes(name: str, size: int, limit: int, otherwise: str = "or use a smaller set.") -> None:
    """Raises DataError if a set takes more bytes in memory than `max_bytes` allows."""
    if size > limit:
        raise DataError(
            f"{name} takes {size / 2**30:.2f} GiB in memory, over the limit of "
            f"{limit / 2**30:.2f} GiB; raise max_bytes if there is room, {otherwise}"
        )
