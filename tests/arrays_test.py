"""Arrays as a data set: the bits of the same set read otherwise, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mtard_tf import data as sets
from mtard_tf.data.image_data import DataError, ImageData

IMAGES = np.random.RandomState(0).randint(0, 256, (40, 5, 4)).astype(np.uint8)
LABELS = (np.arange(40) % 4).astype(np.uint8)


def _same(one: ImageData, other: ImageData) -> None:
    for role in ("train", "validation", "test"):
        a, b = getattr(one, role), getattr(other, role)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
    assert (one.label_names, one.augmentation) == (other.label_names, other.augmentation)


def test_the_arrays_of_a_named_set_give_its_bits(monkeypatch) -> None:
    named = sets.fashion_mini(split_seed=3)
    monkeypatch.setattr("mtard_tf.data.tfds_sets.carve", lambda split, *_: (split, split))
    whole = sets.fashion_mini()
    assert len(whole.train) == 6_000
    arrays = (whole.train.images[..., 0], whole.train.labels, whole.test.images, whole.test.labels)
    _same(ImageData.from_arrays(*arrays, whole.label_names, split_seed=3), named)
    floats = (arrays[0] / 255, arrays[1].astype(np.uint8)[:, None], arrays[2], list(arrays[3]))
    _same(ImageData.from_arrays(*floats, whole.label_names, split_seed=3), named)


def test_defaults() -> None:
    data = ImageData.from_arrays(IMAGES, LABELS, IMAGES[:8], LABELS[:8])
    assert data.label_names == ("0", "1", "2", "3") and data.image_shape == (5, 4, 1)
    assert (data.name, data.augmentation) == ("arrays", "none")
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 8)
    assert data.train.labels.dtype == np.int32
    colour = np.repeat(IMAGES[..., None], 3, axis=3)
    held = ImageData.from_arrays(colour, LABELS, colour, LABELS, validation_examples=12, name="x")
    assert (held.augmentation, len(held.validation), held.name) == ("crop_flip", 12, "x")
    named = ImageData.from_arrays(IMAGES, LABELS, IMAGES, LABELS, ["a", "b", "c", "d", "absent"])
    assert named.num_classes == 5


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_all_256_levels_survive_floats(dtype: type) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(20, axis=0)
    floats = levels.astype(dtype) / dtype(255)
    labels = np.arange(20) % 2
    data = ImageData.from_arrays(floats, labels, floats, labels)
    np.testing.assert_array_equal(data.test.images[..., 0], levels)
    np.testing.assert_array_equal(data.train.images[0, ..., 0], levels[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_train": IMAGES.astype(float)},
            "x_train runs from 0 to 255; give floats in [0, 1]: divide by 255, or undo the "
            "normalisation, which belongs into the model.",
        ),
        ({"x_test": IMAGES / 255 - 0.5}, "x_test runs from -0.5 to 0.5; give floats in [0, 1]"),
        ({"x_train": IMAGES * np.nan}, "x_train runs from nan to nan; give floats in [0, 1]"),
        (
            {"x_train": IMAGES.astype(int)},
            "x_train is int64; give uint8 in 0..255, or float in [0, 1].",
        ),
        (
            {"x_train": IMAGES[0]},
            "x_train has the shape (5, 4); give [n, height, width, channels], or [n, height, "
            "width] for grey images.",
        ),
        ({"x_test": IMAGES[:, :4]}, "arrays: test images are (4, 4, 1), train images are (5, 4"),
        (
            {"y_train": LABELS + 1},
            "y_train has 4 different labels, from 1 to 4; number them 0 to 3 (np.unique(y, "
            "return_inverse=True)[1]), or give label_names.",
        ),
        ({"y_train": LABELS * 0}, "y_train has one class; give images of two or more."),
        ({"y_train": LABELS.astype(int) - 1}, "y_train has the label -1; give integers from 0"),
        ({"y_train": LABELS + np.int64(2**40)}, "y_train has the label 1099511627776; give"),
        ({"y_train": LABELS / 1}, "y_train is float64; give integers from 0 on."),
        (
            {"y_train": np.eye(4)[LABELS]},
            "y_train has the shape (40, 4) for 40 images; give one integer per image "
            "(np.argmax(y, axis=1) of one-hot labels).",
        ),
        ({"y_train": LABELS[:-1]}, "y_train has the shape (39,) for 40 images; give one integer"),
        (
            {"y_test": LABELS + 1},
            "y_test has the label 4, and there are 4 classes; give labels from 0 to 3.",
        ),
        (
            {"label_names": ("a", "b")},
            "y_train has the label 3, and there are 2 label names; give one per class.",
        ),
        ({"augmentation": "flip"}, "augmentation is 'flip'; use one of none, crop_flip"),
        ({"validation_examples": 40}, "validation_examples is 40 of 40 training examples; give 1"),
    ],
)
def test_refusals(changes: dict, message: str) -> None:
    given = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS}
    with pytest.raises(DataError) as caught:
        ImageData.from_arrays(**(given | changes))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    if message.endswith("."):
        assert str(caught.value) == message
