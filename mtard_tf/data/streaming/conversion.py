"""Converts a TFDS set to ArrayRecord, whose records are read in any order."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from mtard_tf.data import catalogue, writing
from mtard_tf.data.image_data import DataError
from mtard_tf.data.tfds_splits import damaged

# Of TFDS' reader: so many files are read in turn, so many records of each at a time. The records
# keep that order, so that the batches of a converted set are those of the set that was converted.
_FILES, _RECORDS = 16, 16


def convert(
    name: str,
    out: str,
    data_dir: str | None = None,
    *,
    progress: writing.Progress = lambda places, _: places,
) -> str:
    """Writes a prepared set in TFRecord anew in ArrayRecord, whole or not at all.

    Records, features and labels stay as they are.

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
        for role, split in info.splits.items():
            path = partial / f"{info.name}-{role}.{writing.ARRAY_RECORD}-00000-of-00001"
            with writing.record_writer(os.fspath(path), writing.ARRAY_RECORD) as writer:
                for record in _records(info, split, progress(range(split.num_examples), role)):
                    writer.write(record)
        _write_metadata(source, partial)
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
            yield record
    except (tf.errors.OpError, ValueError) as error:  # the latter: another number of records
        raise damaged(info.data_dir, error) from error


def _write_metadata(source: pathlib.Path, target: pathlib.Path) -> None:
    for path in source.iterdir():
        if path.suffix in (".json", ".txt"):  # the latter are names of labels
            shutil.copyfile(path, target / path.name)
    info = target / "dataset_info.json"
    described = json.loads(info.read_text(encoding="utf-8"))
    described["fileFormat"] = writing.ARRAY_RECORD
    for split in described["splits"]:
        split["shardLengths"] = [str(sum(map(int, split["shardLengths"])))]
        split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info.write_text(json.dumps(described, indent=2), encoding="utf-8")
