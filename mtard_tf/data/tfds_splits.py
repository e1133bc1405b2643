"""Reads and divides the splits of a TFDS set, in little more memory than the images take."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from mtard_tf.data.image_data import DataError, Split, carve_validation, held_out

# Bytes decoded at a time; TFDS holds a few such batches.
_READ_BYTES = 4 * 2**20
_RECORDS = 4_000  # of an ArrayRecord set, at a time
_MOVED = 1_000  # images at a time


def carve(split: Split, examples: int | None, seed: int) -> tuple[Split, Split]:
    """`carve_validation` in place: the memory of `split`, if it is in memory, is overwritten."""
    if not isinstance(split.images, np.ndarray):
        return carve_validation(split, examples, seed=seed)
    chosen = held_out(split.labels, examples, seed=seed)
    validation = split.take(np.flatnonzero(chosen))
    kept = np.flatnonzero(~chosen)
    for start in range(0, len(kept), _MOVED):
        # Never below `start`, so that nothing is overwritten unread.
        places = kept[start : start + _MOVED]
        split.images[start : start + len(places)] = split.images[places]
    return Split(split.images[: len(kept)], split.labels[kept]), validation


def read_split(
    builder: Any, name: str, keys: tuple[str, str], shape: tuple[int, int, int]
) -> Split:
    """One split of a prepared set, in TFDS' order.

    Args:
      builder: TFDS' builder of the set.
      name: of the split.
      keys: the features that are image and label.
      shape: of an image, (height, width, channels).

    Raises:
      DataError: a damaged file.
    """
    import tensorflow as tf

    image_key, label_key = keys
    count = builder.info.splits[name].num_examples
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int32)
    batch = max(1, min(1_000, _READ_BYTES // int(np.prod(shape))))
    stop = 0
    try:
        for dataset in _parts(builder, name):
            # Other features go before batching: they may not have one size.
            dataset = dataset.map(lambda example: (example[image_key], example[label_key]))
            for batch_images, batch_labels in dataset.batch(batch).prefetch(1):
                start, stop = stop, stop + len(batch_labels)
                images[start:stop], labels[start:stop] = batch_images, batch_labels
    except (tf.errors.OpError, ValueError, RuntimeError) as error:  # the last is ArrayRecord's
        raise damaged(builder.data_dir, error) from error
    return Split(images, labels)


def _parts(builder: Any, name: str) -> Iterator[Any]:
    """The split, as one or several `tf.data.Dataset`s; TensorFlow decodes either file format."""
    import tensorflow as tf
    import tensorflow_datasets

    if builder.info.file_format.value != "array_record":
        config = tensorflow_datasets.ReadConfig(try_autocache=False, skip_prefetch=True)
        yield builder.as_dataset(split=name, read_config=config)
        return
    source = builder.as_data_source(
        split=name, deserialize_method=tensorflow_datasets.decode.DeserializeMethod.RAW_BYTES
    )
    for start in range(0, len(source), _RECORDS):
        records = source.__getitems__(range(start, min(start + _RECORDS, len(source))))
        dataset = tf.data.Dataset.from_tensor_slices(records)
        yield dataset.map(builder.info.features.deserialize_example)


def damaged(directory: str | os.PathLike[str], reason: object) -> DataError:
    """The error for a folder that TFDS cannot read."""
    # TensorFlow wraps the message in "{{function_node ...}} ... [Op:...] name:".
    words = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", str(reason).strip().partition("\n")[0])
    return DataError(f"TFDS cannot read {directory} ({words}); prepare it again.")
