"""Augmentations by name: reference values, draws, and independence of the batch."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.data import augmentation, batches, draws, image_operations
from mtard_tf.data.image_data import AUGMENTATIONS, DataError, ImageData, Split

# Outputs of the official code (TreeLLi/DA-Alone-Improves-AT at 38b740a, through torchvision 0.29.1
# on Pillow 13.0) at draws and strengths that stand in the file and in the names.
REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "augmentation.npz")
IDS = tf.range(40_000, dtype=tf.int64)


def _images(count: int, shape: tuple[int, int, int] = (32, 32, 3), seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, *shape)).astype(np.uint8)


def _number(value: float) -> tf.Tensor:
    return tf.constant([value], tf.float64)


_OPERATIONS = {
    "saturation_0p5": lambda x: image_operations.saturation(x, _number(0.5)),
    "saturation_1p7": lambda x: image_operations.saturation(x, _number(1.7)),
    "brightness_1p6": lambda x: image_operations.brightness(x, _number(1.6)),
    "contrast_0p6": lambda x: image_operations.contrast(x, _number(0.6)),
    "sharpness_0p3": lambda x: image_operations.sharpness(x, _number(0.3)),
    "sharpness_1p8": lambda x: image_operations.sharpness(x, _number(1.8)),
    "autocontrast": image_operations.autocontrast,
    "equalize": image_operations.equalize,
    "shear_x_0p1": lambda x: image_operations.shear(x, _number(0.1), tf.constant([False])),
    "shear_y_m0p15": lambda x: image_operations.shear(x, _number(-0.15), tf.constant([True])),
    "rotate_7": lambda x: image_operations.rotate(x, _number(7.0)),
}


@pytest.mark.parametrize("name", sorted(_OPERATIONS))
def test_operations_are_pillows_to_the_bit(name: str) -> None:
    image = tf.constant(REFERENCE["color_image"][None])
    np.testing.assert_array_equal(_OPERATIONS[name](image)[0], REFERENCE[f"color_{name}"])


def test_the_reference_file_has_no_other_operation() -> None:
    names = {key.partition("_")[2] for key in REFERENCE.files if key.startswith("color_")}
    assert names - {"image"} == set(_OPERATIONS)


def test_operations_leave_images_of_one_value_as_they_are() -> None:
    images = tf.fill([2, 8, 8, 3], tf.constant(77, tf.uint8))
    for operation in (image_operations.autocontrast, image_operations.equalize):
        np.testing.assert_array_equal(operation(images), images)


def test_saturation_leaves_grey_images_as_they_are() -> None:
    images = tf.constant(_images(3, (8, 8, 1)))
    factor = tf.constant([0.1, 1.0, 1.9], tf.float64)
    np.testing.assert_array_equal(image_operations.saturation(images, factor), images)


def test_crop_shift_has_the_pictures_of_the_official_code_at_its_draws() -> None:
    strength, columns, left, top, right, bottom = REFERENCE["crop_draws"].T
    rows = strength - columns
    images = np.repeat(REFERENCE["crop_image"][None], len(strength), axis=0)
    found = augmentation.shifted(
        tf.constant(images),
        tf.zeros(len(strength), tf.bool),
        tf.constant(np.stack([rows, top, rows - bottom], axis=1)),
        tf.constant(np.stack([columns, left, columns - right], axis=1)),
    )
    np.testing.assert_array_equal(found, REFERENCE["crop_output"])


def test_crop_shift_draws() -> None:
    """s ~ U{0..10}, cut columns ~ U{0..s}, the rest rows; starts and places ~ U{0..cut} each."""
    numbers = draws.uniform(IDS, 3, 7)
    flips, rows, columns = (
        part.numpy() for part in augmentation.crop_shift_draws(numbers, (32, 32))
    )
    cut = rows[:, 0] + columns[:, 0]
    np.testing.assert_allclose(np.bincount(cut, minlength=11) / len(cut), 1 / 11, atol=0.006)
    assert flips.mean() == pytest.approx(0.5, abs=0.01)
    of_ten = columns[cut == 10, 0]
    np.testing.assert_allclose(np.bincount(of_ten) / len(of_ten), 1 / 11, atol=0.02)
    for moves in (rows, columns):
        for part in (1, 2):
            of_four = moves[moves[:, 0] == 4, part]
            np.testing.assert_allclose(np.bincount(of_four) / len(of_four), 0.2, atol=0.03)
    np.testing.assert_allclose(np.corrcoef(rows[rows[:, 0] == 4, 1:].T), np.eye(2), atol=0.05)


def test_crop_shift_flips_then_keeps_the_piece_whole() -> None:
    """White images: (h - cut rows)(w - cut columns) pixels stay; a flipped one is flipped first."""
    numbers = draws.uniform(IDS[:200], 3, 7)
    flips, rows, columns = augmentation.crop_shift_draws(numbers, (32, 32))
    white = tf.fill([200, 32, 32, 1], tf.constant(1, tf.uint8))
    kept = tf.reduce_sum(tf.cast(augmentation.crop_shift(white, IDS[:200], 3), tf.int32), [1, 2, 3])
    np.testing.assert_array_equal(kept, (32 - rows[:, 0]) * (32 - columns[:, 0]))
    images = tf.constant(_images(200))
    turned = tf.where(flips[:, None, None, None], tf.reverse(images, [2]), images)
    np.testing.assert_array_equal(
        augmentation.crop_shift(images, IDS[:200], 3),
        augmentation.shifted(turned, tf.zeros(200, tf.bool), rows, columns),
    )


def test_crop_shift_keeps_a_pixel_of_images_smaller_than_the_cut() -> None:
    white = tf.fill([500, 4, 6, 1], tf.constant(1, tf.uint8))
    kept = tf.reduce_sum(tf.cast(augmentation.crop_shift(white, IDS[:500], 0), tf.int32), [1, 2, 3])
    np.testing.assert_array_less(0, kept)


def test_erased_boxes_are_those_of_random_erasing() -> None:
    """Area 2 to 33 %, ratio 0.3 to 3.3, inside the image, smaller than it in both directions."""
    top, left, high, wide = augmentation.erased_boxes(draws.uniform(IDS, 5, 40), (32, 32)).numpy().T
    assert high.min() >= 1 and wide.min() >= 1 and high.max() < 32 and wide.max() < 32
    reach = [top.min(), left.min(), (top + high).max(), (left + wide).max()]
    np.testing.assert_array_equal(reach, [0, 0, 32, 32])
    share = high * wide / 1024
    assert 0.012 < share.min() < 0.02 < 0.30 < share.max() < 0.36
    assert share.mean() == pytest.approx(0.17, abs=0.005)
    large = (high > 5) & (wide > 5)
    assert 0.25 < (high / wide)[large].min() < 0.4 and 2.5 < (high / wide)[large].max() < 4
    assert np.median(np.log(high / wide)) == pytest.approx(0, abs=0.05)


def test_weak_erases_half_of_the_images_and_strong_all() -> None:
    """Of one draw, both differ only where weak erases nothing."""
    images, ids = tf.constant(_images(600)), IDS[:600]
    weak, strong = (
        augmentation.augmented(f"idbh_{name}", images, ids, 1).numpy()
        for name in ("weak", "strong")
    )
    differ = (weak != strong).any(axis=(1, 2, 3))
    assert differ.mean() == pytest.approx(0.5, abs=0.06)
    assert (strong[differ] == 0).sum() > (weak[differ] == 0).sum()


def test_each_operation_has_an_eighth_of_the_images() -> None:
    numbers = draws.uniform(IDS, 1, 12)[:, 7]
    counts = np.bincount(draws.whole(numbers, 8).numpy(), minlength=8)
    np.testing.assert_allclose(counts / len(IDS), 1 / 8, atol=0.006)
    assert len(augmentation._OPERATIONS) == 8


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1)])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_image_is_augmented_alike_in_any_batch(name: str, shape: tuple[int, int, int]) -> None:
    images, ids = tf.constant(_images(24, shape)), tf.range(100, 124, dtype=tf.int64)
    whole = augmentation.augmented(name, images, ids, 9).numpy()
    assert whole.dtype == np.uint8 and whole.shape == (24, *shape)
    order = np.random.RandomState(1).permutation(24)
    for part in np.split(order, [1, 9]):
        again = augmentation.augmented(name, tf.gather(images, part), tf.gather(ids, part), 9)
        np.testing.assert_array_equal(again, whole[part])
    other = augmentation.augmented(name, images, ids, 10).numpy()
    assert (name == "none") == np.array_equal(other, whole)


@pytest.mark.parametrize("name", ["crop_shift", "idbh_strong"])
def test_batches_have_the_augmentation_of_their_data(name: str) -> None:
    split = Split(_images(10), np.zeros(10, np.int32))
    data = ImageData("toy", ("a",), split, split, split)
    moved = ImageData("toy", ("a",), split, split, split, augmentation=name)
    plain = next(iter(batches.training_batches(data, batch_size=10, epochs=1, seed=4)))
    found = next(iter(batches.training_batches(moved, batch_size=10, epochs=1, seed=4)))
    images = tf.cast(tf.round(plain[0] * 255), tf.uint8)
    expected = batches.to_float(augmentation.augmented(name, images, plain[2], 4))
    np.testing.assert_array_equal(found[0], expected)


def test_colour_operations_refuse_other_channels() -> None:
    split = Split(_images(2, (8, 8, 4)), np.zeros(2, np.int32))
    with pytest.raises(DataError) as caught:
        ImageData("toy", ("a",), split, split, split, augmentation="idbh_weak")
    assert str(caught.value) == (
        "augmentation is 'idbh_weak', whose colour operations take images of 1 or 3 channels, and "
        "the images have 4; use 'crop_shift'."
    )
