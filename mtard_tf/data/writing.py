"""Writes a data set in TFDS format, so that TFDS itself reads it without the set's own code."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtard_tf import files
from mtard_tf.data.image_data import DataError, Split

Progress = Callable[[Sequence[int], str], Iterable[int]]
"""Wraps the indices of a split, given its name, to show progress."""

TFRECORD, ARRAY_RECORD = "tfrecord", "array_record"


class Written(NamedTuple):
    """A split on disk: its examples, and the bytes of their records without the frames."""

    examples: int
    num_bytes: int


def write_tfds(
    directory: str | os.PathLike[str],
    name: str,
    splits: Mapping[str, Split],
    *,
    label_names: Sequence[str],
    description: str = "",
    homepage: str = "",
    progress: Progress = lambda places, _: places,
) -> None:
    """Writes `splits`, in their order, to `directory`, atomically.

    Args:
      directory: the version's folder, `<data_dir>/<name>/<major.minor.patch>`; must not exist.
      name: the set's name in TFDS.
      splits: by TFDS' name of the split ("train", "test").
      label_names: one per class.
      description: for `dataset_info.json`, as is `homepage`.
      progress: wraps the indices of each split.

    Raises:
      DataError: `directory` exists or cannot be written.
    """

    def examples(role: str, split: Split) -> Iterator[tuple[np.ndarray, int]]:
        for place in progress(range(len(split)), role):
            yield split.images[place], int(split.labels[place])

    with new_version(directory, name) as partial:
        written = {
            role: write_records(partial, name, role, examples(role, split))
            for role, split in splits.items()
        }
        write_metadata(
            partial,
            name,
            written,
            version=os.path.basename(directory),
            image_shape=next(iter(splits.values())).images.shape[1:],
            label_names=label_names,
            description=description,
            homepage=homepage,
        )


@contextlib.contextmanager
def new_version(directory: str | os.PathLike[str], name: str) -> Iterator[pathlib.Path]:
    """A temporary folder that becomes `directory` if the block ends well; errors as `write_tfds`.

    It lies beside `directory`, hidden, so that nobody takes what a killed process left for a
    version.
    """
    import tensorflow as tf

    check_absent(directory, name)
    try:
        with files.replacing(directory) as partial:
            partial.mkdir()
            yield partial
    except (OSError, RuntimeError, tf.errors.OpError) as error:  # RuntimeError is ArrayRecord's
        raise DataError(
            f"{directory} cannot be written ({error}); choose another folder or make room."
        ) from error


def check_absent(directory: str | os.PathLike[str], name: str) -> None:
    """Raises DataError if the version's folder is there: nothing is overwritten."""
    if os.path.exists(directory):
        raise DataError(f"{directory} exists already; remove it to write {name} again.")


def write_records(
    directory: pathlib.Path,
    name: str,
    role: str,
    examples: Iterable[tuple[np.ndarray, int]],
    file_format: str = TFRECORD,
) -> Written:
    """Writes one split of (image, label), one file in TFDS' naming; returns its sizes."""
    import tensorflow as tf

    count = num_bytes = 0
    path = os.fspath(directory / f"{name}-{role}.{file_format}-00000-of-00001")
    with record_writer(path, file_format) as writer:
        for image, label in examples:
            png = png_of(image, file_format)
            features = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            count, num_bytes = count + 1, num_bytes + len(record)
    return Written(count, num_bytes)


def png_of(image: np.ndarray, file_format: str) -> bytes:
    """An image as a PNG, `[height, width, channels]` uint8.

    In ArrayRecord the file packs the records, see `record_writer`: a PNG that zlib has not packed
    is decoded in a third of the time.
    """
    import tensorflow as tf

    return tf.io.encode_png(image, compression=0 if file_format == ARRAY_RECORD else 9).numpy()


def record_writer(path: str, file_format: str) -> Any:
    """A context manager whose `write(record)` appends to a new file of this format."""
    if file_format == TFRECORD:
        import tensorflow as tf

        return tf.io.TFRecordWriter(path)
    from array_record.python import array_record_module

    # One record a group, as TFDS writes: random access decompresses nothing else. Snappy's records
    # cost less CPU to read than Zstandard's, and are larger for photographs.
    options = "group_size:1,snappy"
    return contextlib.closing(array_record_module.ArrayRecordWriter(path, options))


def write_metadata(
    directory: pathlib.Path,
    name: str,
    written: Mapping[str, Written],
    *,
    version: str,
    image_shape: Sequence[int],
    label_names: Sequence[str],
    description: str = "",
    homepage: str = "",
    file_format: str = TFRECORD,
) -> None:
    """Writes `dataset_info.json` and `features.json` for splits that `write_records` wrote."""
    import tensorflow_datasets

    features = tensorflow_datasets.features
    template = tensorflow_datasets.core.ShardedFileTemplate(
        data_dir=os.fspath(directory), dataset_name=name, filetype_suffix=file_format
    )
    infos = [
        tensorflow_datasets.core.SplitInfo(
            name=role,
            shard_lengths=[split.examples],
            num_bytes=split.num_bytes,
            filename_template=template.replace(split=role),
        )
        for role, split in written.items()
    ]
    tensorflow_datasets.folder_dataset.write_metadata(
        data_dir=os.fspath(directory),
        features=features.FeaturesDict(
            {
                "image": features.Image(shape=tuple(image_shape), encoding_format="png"),
                "label": features.ClassLabel(names=list(label_names)),
            }
        ),
        split_infos=infos,
        version=version,
        check_data=False,
        description=description,
        homepage=homepage,
        supervised_keys=("image", "label"),
    )
