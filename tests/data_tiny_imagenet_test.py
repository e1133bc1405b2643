"""Tiny-ImageNet's folders into TFDS format: labels, splits, what is refused."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import registry
from mtard_tf.data import tiny_imagenet_folders
from mtard_tf.data.image_data import DataError
from mtard_tf.data.tiny_imagenet_folders import import_tiny_imagenet

WNIDS = ("n02", "n01", "n10")  # not in order on purpose
COLOURS = {"n01": (250, 0, 0), "n02": (0, 250, 0), "n10": (0, 0, 250)}


def _jpeg(path: pathlib.Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_jpeg(image, quality=100).numpy())


@pytest.fixture
def source(tmp_path, monkeypatch) -> pathlib.Path:
    """Three classes: six training images of each, two of them grey, and one for validation."""
    monkeypatch.setattr(tiny_imagenet_folders, "CLASSES", 3)
    monkeypatch.setattr(tiny_imagenet_folders, "TRAIN_EXAMPLES", 18)
    monkeypatch.setattr(tiny_imagenet_folders, "TEST_EXAMPLES", 3)
    folder, lines = tmp_path / "tiny-imagenet-200", []
    for place, wnid in enumerate(WNIDS):
        image = np.full((64, 64, 3), COLOURS[wnid], np.uint8)
        for number in range(6):
            grey = number > 3
            _jpeg(
                folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG",
                np.full((64, 64, 1), 100, np.uint8) if grey else image,
            )
        _jpeg(folder / "val" / "images" / f"val_{place}.JPEG", image)
        lines.append(f"val_{place}.JPEG\t{wnid}\t0\t32\t44\t62")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tnewt\n")
    return folder


def test_the_folders_become_a_set(source, tmp_path):
    path = import_tiny_imagenet(str(source), str(tmp_path / "sets"))
    assert path == tmp_path / "sets" / "tiny_imagenet" / "1.0.0"
    data = registry.get("datasets", "tiny_imagenet")(str(tmp_path / "sets"), validation_examples=3)
    assert data.label_names == ("goldfish (n01)", "newt (n02)", "n10")
    assert data.image_shape == (64, 64, 3) and data.augmentation == "crop_flip"
    np.testing.assert_array_equal(np.bincount(data.train.labels), [5, 5, 5])
    # Classes are numbered in the order of their wnids: red, green, blue.
    np.testing.assert_array_equal(data.test.labels, [1, 0, 2])
    np.testing.assert_array_equal(data.test.images.mean(axis=(1, 2)).argmax(axis=1), [1, 0, 2])
    grey = (data.train.images == data.train.images[..., :1]).all(axis=(1, 2, 3))
    assert 3 <= grey.sum() <= 6
    with pytest.raises(DataError, match="exists already; remove it to write tiny_imagenet again"):
        import_tiny_imagenet(str(source), str(tmp_path / "sets"))


def _without_annotations(folder: pathlib.Path) -> None:
    (folder / "val" / "val_annotations.txt").unlink()


def _another_class(folder: pathlib.Path) -> None:
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99\t0\t0\t1\t1\n")


def _no_text(folder: pathlib.Path) -> None:
    (folder / "val" / "val_annotations.txt").write_bytes(b"\xff\xfe")


def _too_few(folder: pathlib.Path) -> None:
    (folder / "train" / "n01" / "images" / "n01_0.JPEG").unlink()


def _cut_off(folder: pathlib.Path) -> None:
    path = folder / "val" / "images" / "val_1.JPEG"
    path.write_bytes(path.read_bytes()[:40])


def _large(folder: pathlib.Path) -> None:
    _jpeg(folder / "val" / "images" / "val_1.JPEG", np.zeros((32, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_text, "val_annotations.txt is not text ('utf-8' codec can't"),
        (_without_annotations, "val_annotations.txt is missing; --source is the folder tiny-"),
        (_another_class, "has the class 'n99' for 'val_0.JPEG', which has no folder in train"),
        (_too_few, "has 3 classes, 17 training and 3 validation images; Tiny-ImageNet has 3, 18"),
        (_cut_off, "val_1.JPEG cannot be read ("),
        (_large, "val_1.JPEG is (32, 64, 3); Tiny-ImageNet has (64, 64, 3): unpack the archive"),
    ],
)
def test_what_is_not_the_archive_is_refused(damage, message, source, tmp_path):
    damage(source)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        import_tiny_imagenet(str(source), str(tmp_path / "sets"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "sets" / "tiny_imagenet").exists() or not any(
        (tmp_path / "sets" / "tiny_imagenet").iterdir()
    )


def test_where_it_comes_from_is_said(tmp_path):
    with pytest.raises(DataError, match="run `mtard-data import tiny_imagenet --source=tiny-imag"):
        registry.get("datasets", "tiny_imagenet")(str(tmp_path))
