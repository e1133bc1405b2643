"""Converts a TFDS set to ArrayRecord, whose records are read in any order."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from mtard_tf.data import catalogue, writing
from mtard_tf.data.image_data import DataError
from mtard_tf.data.tfds_splits import damaged

# TFDS' reader takes records from this many files in turn, this many of each at a time. The records
# keep that order, so that the batches of a converted set are those of the set that was converted.
_FILES, _RECORDS = 16, 16
_PNG = b"\x89PNG\r\n\x1a\n"


def convert(
    name: str,
    out: str,
    data_dir: str | None = None,
    *,
    progress: writing.Progress = lambda places, _: places,
) -> str:
    """Writes a prepared set in TFRecord anew in ArrayRecord, whole or not at all.

    Examples, features and their order stay as they are; see `writing.png_of` for the images.

    Args:
      name: of the set; see `tfds`.
      out: the folder of prepared sets to write it to.
      data_dir: where the set lies; None means TFDS' default.
      progress: wraps the places of each split.

    Returns:
      A line on where it is.

    Raises:
      DataError: the set is not there, not in TFRecord or damaged, or `out` has it already or cannot
        be written.
    """
    import tensorflow_datasets

    source = catalogue.prepared_directory(name, data_dir)
    catalogue.check_features(source)
    try:
        info = tensorflow_datasets.builder_from_directory(os.fspath(source)).info
    except Exception as error:  # TFDS raises various errors for damaged folders
        raise damaged(source, error) from error
    if info.file_format.value != writing.TFRECORD:
        raise DataError(
            f"{source} is in {info.file_format.value} format; only tfrecord is converted."
        )
    target = pathlib.Path(os.path.expanduser(out), name.partition(":")[0], source.name)
    with writing.new_version(target, name) as partial:
        sizes = {}
        for role, split in info.splits.items():
            path = partial / f"{info.name}-{role}.{writing.ARRAY_RECORD}-00000-of-00001"
            with writing.record_writer(os.fspath(path), writing.ARRAY_RECORD) as writer:
                sizes[role] = 0
                for record in _records(info, split, progress(range(split.num_examples), role)):
                    writer.write(record)
                    sizes[role] += len(record)
        _write_metadata(source, partial, sizes)
    return f"{name} is in {target}; use it with data_dir = {os.path.expanduser(out)!r}."


def _records(info: Any, split: Any, places: Iterable[int]) -> Iterator[bytes]:
    import tensorflow as tf

    names = [os.fspath(path) for path in split.filepaths]
    found = tf.data.Dataset.from_tensor_slices(names).interleave(
        tf.data.TFRecordDataset,
        cycle_length=1 if info.disable_shuffling else _FILES,
        block_length=_RECORDS,
    )
    try:
        for _, record in zip(places, found.as_numpy_iterator(), strict=True):
            yield _stored(record, info.features)
    except (tf.errors.OpError, ValueError) as error:  # the latter: another number of records
        raise damaged(info.data_dir, error) from error


def _stored(record: bytes, features: Any) -> bytes:
    """The record, with its PNG images of 8 bits as ArrayRecord is to have them."""
    import tensorflow as tf
    import tensorflow_datasets

    example = tf.train.Example.FromString(record)
    for name, feature in features.items():
        if isinstance(feature, tensorflow_datasets.features.Image) and feature.np_dtype == np.uint8:
            values = example.features.feature[name].bytes_list.value
            if values[0].startswith(_PNG):
                image = feature.decode_example(values[0])
                values[0] = writing.png_of(image, writing.ARRAY_RECORD)
    return example.SerializeToString(deterministic=True)


def _write_metadata(source: pathlib.Path, target: pathlib.Path, sizes: Mapping[str, int]) -> None:
    for path in source.iterdir():
        if path.suffix in (".json", ".txt"):  # the latter are names of labels
            shutil.copyfile(path, target / path.name)
    info = target / "dataset_info.json"
    described = json.loads(info.read_text(encoding="utf-8"))
    described["fileFormat"] = writing.ARRAY_RECORD
    for split in described["splits"]:
        split["shardLengths"] = [str(sum(map(int, split["shardLengths"])))]
        split["numBytes"] = str(sizes[split["name"]])
        split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info.write_text(json.dumps(described, indent=2), encoding="utf-8")
