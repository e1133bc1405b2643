"""The splits of a TFDS set in ArrayRecord as `StoredImages`, and batches of them by Grain."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mtard_tf.data.image_data import DataError, Split
from mtard_tf.data.streaming.served import served
from mtard_tf.data.streaming.stored_images import StoredImages, images_in
from mtard_tf.data.tfds_splits import damaged

# Records read at a time to find the labels: as many as this many bytes of decoded images.
_LABELS_AT_ONCE = 2 * 2**20
_MAX_THREADS = 8


def open_split(
    builder: Any, name: str, keys: tuple[str, str], shape: tuple[int, int, int]
) -> Split:
    """One split of a set in ArrayRecord: its labels in memory, its images on disk.

    All records are read once, for the labels and for the fingerprint of their content.
    Arguments and errors as in `tfds_splits.read_split`.
    """
    _grain()
    image_key, label_key = keys
    feature = builder.info.features[image_key]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def decode(records: tf.Tensor) -> tf.Tensor:
        encoded = tf.io.parse_example(records, {image_key: tf.io.FixedLenFeature([], tf.string)})
        image = tf.TensorSpec(shape, tf.uint8)
        return tf.map_fn(_decoder(feature, shape), encoded[image_key], fn_output_signature=image)

    try:
        records = Records(builder.info.splits[name].file_instructions)
        labels, fingerprint = _scanned(records, label_key, images_in(_LABELS_AT_ONCE, shape))
    except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
        raise damaged(builder.data_dir, error) from error

    def read(places: np.ndarray) -> np.ndarray:
        if not len(places):
            return np.empty((0, *shape), np.uint8)
        try:
            with tf.device("CPU:0"):
                return decode(tf.constant(records.read(places))).numpy()
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            raise damaged(builder.data_dir, error) from error

    return Split(StoredImages(read, np.arange(len(labels)), shape, fingerprint), labels)


def _decoder(feature: Any, shape: tuple[int, int, int]) -> Callable[[tf.Tensor], tf.Tensor]:
    """A feature's own decoder, but of 8-bit PNG the operation of that format: a fifth faster."""
    if feature.np_dtype != np.uint8 or getattr(feature, "_encoding_format", None) != "png":
        return feature.decode_example
    return lambda png: tf.ensure_shape(tf.io.decode_png(png, channels=shape[-1]), shape)


class Records:
    """The records of a split's files, one after another.

    TFDS' own data source goes through Python for each record, which takes as long as reading it.

    Args:
      instructions: TFDS' file instructions of the split.
    """

    def __init__(self, instructions: Sequence[Any]) -> None:
        from array_record.python.array_record_module import ArrayRecordReader

        # As array_record's data source opens them: places are drawn, so nothing is read ahead.
        options = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 2**15}
        self._readers = [ArrayRecordReader(part.filename, **options) for part in instructions]
        counts = np.array([part.take for part in instructions])
        self._ends = np.cumsum(counts)
        # Of a place in the split to one in its file.
        self._offsets = np.array([part.skip for part in instructions]) + counts - self._ends

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, places: np.ndarray) -> list[bytes]:
        """The records at `places`, integers `[m]`, in that order; safe among threads."""
        found = [b""] * len(places)
        files = np.searchsorted(self._ends, places, side="right")
        for number in np.unique(files):
            own = np.flatnonzero(files == number)
            inside = (places[own] + self._offsets[number]).tolist()
            for place, record in zip(own, self._readers[number].read(inside), strict=True):
                found[place] = record
        return found


def _scanned(records: Records, label_key: str, count: int) -> tuple[np.ndarray, str]:
    """The labels of all records, int32, and a fingerprint of the records."""
    feature = {label_key: tf.io.FixedLenFeature([], tf.int64)}
    labels, sha = [np.empty(0, np.int32)], hashlib.sha256()
    with tf.device("CPU:0"):
        for start in range(0, len(records), count):
            part = records.read(np.arange(start, min(start + count, len(records))))
            found = tf.io.parse_example(part, feature)[label_key]
            labels.append(found.numpy().astype(np.int32))
            for record in part:
                sha.update(len(record).to_bytes(8, "little"))
                sha.update(record)
    return np.concatenate(labels), sha.hexdigest()


def batches(
    images: StoredImages, turn: Callable[[int], tuple[np.ndarray, np.ndarray]], count: int
) -> tf.data.Dataset:
    """Batches `turn(0)` to `turn(count - 1)`, read and decoded by Grain's threads, in that order.

    Args:
      images: on disk.
      turn: number of a batch -> (positions among `images`, ids), both `[batch]`; a pure function.
      count: number of batches.

    Returns:
      A dataset of (images uint8 `[batch, h, w, c]`, positions int64, ids int64).
    """
    grain = _grain()

    def element(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        places, ids = turn(number)
        return images.read(places), places.astype(np.int64), ids.astype(np.int64)

    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)

    def elements(first: int) -> Generator[tuple[np.ndarray, ...], None, None]:
        numbers = grain.MapDataset.range(first, count)
        iterator = iter(numbers.map(element).to_iter_dataset(options))
        try:
            yield from iterator
        finally:
            iterator.close()

    numbers = tf.TensorSpec([None], tf.int64)
    signature = (tf.TensorSpec([None, *images.shape[1:]], tf.uint8), numbers, numbers)
    return served(elements, signature, count)


def _grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise DataError(
            f"Sets that stay on disk are read by the package grain ({error}); install it (Python "
            "3.11 or later, not on Windows), or give stream=False where memory suffices."
        ) from error
    return grain
