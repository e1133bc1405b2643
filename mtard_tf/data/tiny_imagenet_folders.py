"""Converts the folders of Tiny-ImageNet's official archive to TFDS format.

`tiny-imagenet-200.zip`, unpacked, holds `train/<wnid>/images/*.JPEG` and `val/images/*.JPEG` with
`val/val_annotations.txt` (file name, tab, wnid, tab, a box). Its test images have no labels, so
the validation images are the test split here, as in the literature. Class ids follow the wnids in
alphabetical order, as in torchvision's ImageFolder and so in PyTorch's checkpoints.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from mtard_tf.data import catalogue, writing
from mtard_tf.data.image_data import DataError, Split

NAME, VERSION = "tiny_imagenet", "1.0.0"
HOMEPAGE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
IMAGE_SHAPE = (64, 64, 3)
CLASSES, TRAIN_EXAMPLES, TEST_EXAMPLES = 200, 100_000, 10_000


def import_tiny_imagenet(
    source_dir: str,
    data_dir: str | None = None,
    *,
    progress: writing.Progress = lambda places, _: places,
) -> pathlib.Path:
    """Writes the set under `data_dir` in TFDS format and returns the folder; holds it in memory.

    Args:
      source_dir: the unpacked archive.
      data_dir: None means TFDS' default ($TFDS_DATA_DIR, or ~/tensorflow_datasets).
      progress: wraps the indices of each split, once to read and once to write.

    Raises:
      DataError: a folder or file is missing, damaged or not the expected one, or the target exists
        or cannot be written.
    """
    source = pathlib.Path(os.path.expanduser(source_dir))
    listed = list_images(source)
    counts = {role: len(images) for role, (images, _) in listed.items()}
    names = class_names(source)
    if len(names) != CLASSES or counts != {"train": TRAIN_EXAMPLES, "test": TEST_EXAMPLES}:
        raise DataError(
            f"{source} has {len(names)} classes, {counts['train']:,} training and "
            f"{counts['test']:,} validation images; Tiny-ImageNet has {CLASSES}, "
            f"{TRAIN_EXAMPLES:,} and {TEST_EXAMPLES:,}: unpack the archive again."
        )
    root = pathlib.Path(os.path.expanduser(data_dir or catalogue.default_data_dir()))
    target = root / NAME / VERSION
    if target.exists():  # before ten minutes of reading
        raise DataError(f"{target} exists already; remove it to write {NAME} again.")
    splits = {
        role: Split(read_images(paths, f"read {role}", progress), labels)
        for role, (paths, labels) in listed.items()
    }
    writing.write_tfds(
        target,
        NAME,
        splits,
        label_names=names,
        description="Tiny-ImageNet; the test split is the official validation split.",
        homepage=HOMEPAGE,
        progress=progress,
    )
    return target


def wnids(source: pathlib.Path) -> list[str]:
    """The WordNet ids of the classes, sorted."""
    return sorted(path.name for path in (source / "train").glob("n*") if path.is_dir())


def class_names(source: pathlib.Path) -> list[str]:
    """One unique name per class: the first of its words, and its WordNet id."""
    words: dict[str, str] = {}
    if (source / "words.txt").is_file():
        for line in _lines(source / "words.txt"):
            wnid, _, said = line.partition("\t")
            words[wnid] = said.split(",")[0].strip()
    return [f"{words[wnid]} ({wnid})" if words.get(wnid) else wnid for wnid in wnids(source)]


def list_images(source: pathlib.Path) -> dict[str, tuple[list[pathlib.Path], np.ndarray]]:
    """Split -> (paths in order, labels).

    Raises:
      DataError: a folder of the archive is missing.
    """
    numbers = {wnid: place for place, wnid in enumerate(wnids(source))}
    annotations = source / "val" / "val_annotations.txt"
    if not numbers or not annotations.is_file():
        missing = annotations if numbers else source / "train" / "n..."
        raise DataError(
            f"{missing} is missing; --source is the folder tiny-imagenet-200 of the unpacked "
            "archive."
        )
    train = [(p, n) for w, n in numbers.items() for p in _jpegs(source / "train" / w / "images")]
    test = []
    for line in _lines(annotations):
        name, wnid = (*line.split("\t"), "")[:2]
        if wnid not in numbers:
            raise DataError(
                f"{annotations} has the class {wnid!r} for {name!r}, which has no folder in train; "
                "unpack the archive again."
            )
        test.append((source / "val" / "images" / name, numbers[wnid]))
    return {
        role: ([path for path, _ in listed], np.array([n for _, n in listed], np.int32))
        for role, listed in (("train", train), ("test", test))
    }


def read_images(paths: Sequence[pathlib.Path], what: str, progress: writing.Progress) -> np.ndarray:
    """The images as RGB, uint8 `[n, 64, 64, 3]`.

    Raises:
      DataError: a file is missing, damaged or of another size.
    """
    import tensorflow as tf

    images = np.empty((len(paths), *IMAGE_SHAPE), np.uint8)
    for place in progress(range(len(paths)), what):
        try:
            image = tf.io.decode_jpeg(paths[place].read_bytes(), channels=3).numpy()
        except (OSError, tf.errors.OpError) as error:
            raise DataError(
                f"{paths[place]} cannot be read ({str(error).splitlines()[0]}); unpack the archive "
                "again."
            ) from error
        if image.shape != IMAGE_SHAPE:
            raise DataError(
                f"{paths[place]} is {image.shape}; Tiny-ImageNet has {IMAGE_SHAPE}: unpack the "
                "archive again."
            )
        images[place] = image
    return images


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text ({error}); unpack the archive again.") from error


def _jpegs(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob("*.JPEG"))
