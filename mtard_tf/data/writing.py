"""Writes a data set in TFDS format, so that TFDS itself reads it without the set's own code."""

from __future__ import annotations

import os
import pathlib
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from mtard_tf.data.image_data import DataError, Split

Progress = Callable[[Sequence[int], str], Iterable[int]]
"""Wraps the places of a split, given its name, and shows how far they are gone through."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOUR_TYPES = {1: 0, 3: 2}
_ZLIB_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED)
_RECORD_FRAME = 16  # bytes of length and checksums around every TFRecord


def write_tfds(
    directory: str | os.PathLike[str],
    name: str,
    splits: Mapping[str, Split],
    *,
    label_names: Sequence[str],
    description: str = "",
    homepage: str = "",
    smallest: bool = False,
    progress: Progress = lambda places, _: places,
) -> None:
    """Writes `splits`, in their order, to `directory`: whole or not at all.

    Args:
      directory: the version's folder, `<data_dir>/<name>/<major.minor.patch>`; must not exist.
      name: the set's name in TFDS.
      splits: by TFDS' name of the split ("train", "test").
      label_names: one per class.
      description: for `dataset_info.json`.
      homepage: for `dataset_info.json`.
      smallest: search for the smallest PNG of each image, about 20 times slower.
      progress: wraps the places of each split.

    Raises:
      DataError: `directory` exists or cannot be written.
    """
    target = pathlib.Path(directory)
    if target.exists():
        raise DataError(f"{target} is there already; remove it to write {name} again.")
    # Beside the target, so that the rename stays on one file system; hidden, so that nobody takes
    # what a killed process leaves for a version.
    partial = target.with_name(f".{target.name}.incomplete-{os.getpid()}")
    import tensorflow as tf

    try:
        partial.mkdir(parents=True)
        _write_files(partial, name, splits, smallest, progress)
        _write_metadata(partial, name, target.name, splits, label_names, description, homepage)
        os.rename(partial, target)
    except (OSError, tf.errors.OpError) as error:
        raise DataError(
            f"{target} cannot be written ({error}); choose another folder or make room."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_files(
    directory: pathlib.Path,
    name: str,
    splits: Mapping[str, Split],
    smallest: bool,
    progress: Progress,
) -> None:
    import tensorflow as tf

    for role, split in splits.items():
        with tf.io.TFRecordWriter(os.fspath(directory / _file_name(name, role))) as writer:
            for place in progress(range(len(split)), role):
                png = encode_png(split.images[place], smallest=smallest)
                features = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png])),
                    "label": tf.train.Feature(
                        int64_list=tf.train.Int64List(value=[int(split.labels[place])])
                    ),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString(deterministic=True))


def _write_metadata(
    directory: pathlib.Path,
    name: str,
    version: str,
    splits: Mapping[str, Split],
    label_names: Sequence[str],
    description: str,
    homepage: str,
) -> None:
    import tensorflow_datasets

    features = tensorflow_datasets.features
    template = tensorflow_datasets.core.ShardedFileTemplate(
        data_dir=os.fspath(directory), dataset_name=name, filetype_suffix="tfrecord"
    )
    shape = next(iter(splits.values())).images.shape[1:]
    infos = [
        tensorflow_datasets.core.SplitInfo(
            name=role,
            shard_lengths=[len(split)],
            num_bytes=os.path.getsize(directory / _file_name(name, role))
            - _RECORD_FRAME * len(split),
            filename_template=template.replace(split=role),
        )
        for role, split in splits.items()
    ]
    tensorflow_datasets.folder_dataset.write_metadata(
        data_dir=os.fspath(directory),
        features=features.FeaturesDict(
            {
                "image": features.Image(shape=shape, encoding_format="png"),
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


def _file_name(name: str, role: str) -> str:
    return f"{name}-{role}.tfrecord-00000-of-00001"


def encode_png(image: np.ndarray, *, smallest: bool = False) -> bytes:
    """A grey or RGB image, uint8 `[height, width, 1 or 3]`, as PNG.

    Written here because `tf.io.encode_png` has no search over filters and strategies
    (`smallest`), which takes a tenth off the embedded set, and costs more per call.

    Source: PNG specification (W3C 2003), sections 9 (filters) and 11 (chunks).
    """
    height, width, channels = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOUR_TYPES[channels], 0, 0, 0)
    filters = range(5) if smallest else range(1)
    strategies = _ZLIB_STRATEGIES if smallest else _ZLIB_STRATEGIES[:1]
    candidates = [_filtered(image, number) for number in filters]
    if smallest:
        candidates.append(_adaptive(candidates))
    data = min(
        (_deflate(rows.tobytes(), strategy) for rows in candidates for strategy in strategies),
        key=len,
    )
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(_chunk(kind, body) for kind, body in chunks)


def _filtered(image: np.ndarray, number: int) -> np.ndarray:
    """Every row with PNG filter `number` (none, sub, up, average, Paeth), its number in front."""
    here = image.astype(np.int16)
    rows = np.empty((len(image), 1 + image[0].size), np.uint8)
    rows[:, 0] = number
    rows[:, 1:] = ((here - _predicted(here, number)) % 256).reshape(len(image), -1)
    return rows


def _predicted(here: np.ndarray, number: int) -> np.ndarray | int:
    if number == 0:
        return 0
    padded = np.pad(here, ((1, 0), (1, 0), (0, 0)))
    left, up, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    if number == 4:
        estimate = left + up - corner
        distances = [abs(estimate - other) for other in (left, up, corner)]
        return np.choose(np.argmin(distances, axis=0), (left, up, corner))
    return (left, up, (left + up) // 2)[number - 1]


def _adaptive(candidates: Sequence[np.ndarray]) -> np.ndarray:
    """Row by row the filter with the least sum of absolute (signed) bytes: the usual heuristic."""
    stacked = np.stack(candidates)
    cost = np.abs(stacked[:, :, 1:].view(np.int8).astype(int)).sum(axis=2)
    return stacked[np.argmin(cost, axis=0), np.arange(stacked.shape[1])]


def _deflate(rows: bytes, strategy: int) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 15, 9, strategy)
    return compressor.compress(rows) + compressor.flush()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
