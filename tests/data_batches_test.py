"""Batches: order, resuming, augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.data import augmentation, batches, draws
from mtard_tf.data.image_data import DataError, ImageData, Split

MASK = 2**64 - 1


def _split(examples: int, shape: tuple[int, int, int] = (6, 5, 3), classes: int = 3) -> Split:
    random = np.random.RandomState(examples)
    images = random.randint(1, 256, (examples, *shape)).astype(np.uint8)
    return Split(images, (np.arange(examples) % classes).astype(np.int32))


def _data(examples: int = 10, augmentation: str = "none") -> ImageData:
    split = _split(examples)
    return ImageData("toy", ("a", "b", "c"), split, _split(4), _split(4), augmentation)


def _list(dataset: tf.data.Dataset) -> list[tuple[np.ndarray, ...]]:
    return [tuple(np.asarray(part) for part in batch) for batch in dataset]


def _splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def _draw(seed: int, place: int) -> tuple[int, int, bool]:
    bits = _splitmix64((_splitmix64(seed & MASK) + place * 0x9E3779B97F4A7C15) & MASK)
    return (bits & 0xFFFF) * 9 >> 16, ((bits >> 16) & 0xFFFF) * 9 >> 16, bool(bits >> 63)


def _crop_flip(image: np.ndarray, draw: tuple[int, int, bool]) -> np.ndarray:
    row, column, flip = draw
    height, width, _ = image.shape
    crop = np.pad(image, ((4, 4), (4, 4), (0, 0)))[row : row + height, column : column + width]
    return crop[:, ::-1] if flip else crop


def test_an_epoch_holds_every_example_once_and_ids_count_the_stream() -> None:
    data = _data(10)
    stream = _list(batches.training_batches(data, batch_size=4, epochs=3, seed=5))
    assert [len(labels) for _, labels, _ in stream] == [4, 4, 2] * 3
    np.testing.assert_array_equal(np.concatenate([ids for _, _, ids in stream]), np.arange(30))
    orders = []
    for epoch in range(3):
        images = np.concatenate([images for images, _, _ in stream[3 * epoch : 3 * epoch + 3]])
        labels = np.concatenate([labels for _, labels, _ in stream[3 * epoch : 3 * epoch + 3]])
        match = (images[:, None] == data.train.images.astype(np.float32) / np.float32(255)).all(
            axis=(2, 3, 4)
        )
        order = match.argmax(axis=1)
        assert match.sum() == 10
        np.testing.assert_array_equal(np.sort(order), np.arange(10))
        np.testing.assert_array_equal(labels, data.train.labels[order])
        orders.append(tuple(order))
    assert len(set(orders)) == 3


def test_the_permutations_are_uniform() -> None:
    # 3 examples have 6 orders; over 600 epochs each is expected 100 times, deviation 9.1.
    data = _data(3)
    labels = [
        tuple(labels)
        for _, labels, _ in _list(batches.training_batches(data, batch_size=3, epochs=600, seed=0))
    ]
    counts = [labels.count(order) for order in set(labels)]
    assert len(counts) == 6
    np.testing.assert_allclose(counts, 100, atol=40)


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
@pytest.mark.parametrize("start_step", [0, 1, 3, 5, 6, 9])
def test_a_resumed_stream_equals_the_rest_of_an_uninterrupted_one(
    augmentation: str, start_step: int
) -> None:
    data = _data(10, augmentation)

    def stream(start: int) -> list[tuple[np.ndarray, ...]]:
        dataset = batches.training_batches(data, batch_size=4, epochs=3, seed=7, start_step=start)
        listed = _list(dataset)
        assert int(dataset.cardinality()) == len(listed) == 9 - start
        return listed

    whole, rest = stream(0)[start_step:], stream(start_step)
    for left, right in zip(whole, rest, strict=True):
        for one, other in zip(left, right, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_seed_changes_the_order_and_nothing_else_does() -> None:
    data = _data(10)

    def labels(seed: int) -> list[int]:
        stream = _list(batches.training_batches(data, batch_size=10, epochs=1, seed=seed))
        return [float(image.sum()) for image in stream[0][0]]

    assert labels(1) == labels(1)
    assert labels(1) != labels(2)
    assert sorted(labels(1)) == sorted(labels(2))
    tf.random.set_seed(99)
    assert labels(1) == labels(1)


def test_element_specs_leave_the_batch_open() -> None:
    for dataset in (
        batches.training_batches(_data(10, "crop_flip"), batch_size=4, epochs=1, seed=0),
        batches.evaluation_batches(_split(10), 4),
    ):
        images, labels, ids = dataset.element_spec
        assert (images.shape.as_list(), images.dtype) == ([None, 6, 5, 3], tf.float32)
        assert (labels.shape.as_list(), labels.dtype) == ([None], tf.int32)
        assert (ids.shape.as_list(), ids.dtype) == ([None], tf.int64)


def test_arrays_are_captured_not_embedded_in_the_graph() -> None:
    split = _split(1_000, (32, 32, 3))
    data = ImageData("big", ("a", "b", "c"), split, _split(4, (32, 32, 3)), split)
    dataset = batches.training_batches(data, batch_size=4, epochs=1, seed=0)

    @tf.function
    def first() -> tf.Tensor:
        return next(iter(dataset))[1]

    functions = first.get_concrete_function().graph.as_graph_def().SerializeToString()
    assert split.images.nbytes > 3_000_000
    assert len(functions) < 100_000


def test_splitmix64_gives_the_published_value() -> None:
    # The first output of the generator with seed 1234567, in the usual test vectors.
    assert _splitmix64(1234567) == 6457827717110365317
    state = tf.constant(1234567, tf.uint64)
    assert int(draws._splitmix64(state)) == 6457827717110365317


@pytest.mark.parametrize("seed", [0, 3, -1, 2**31 - 1])
def test_crop_flip_equals_numpy_with_the_same_draws(seed: int) -> None:
    images = _split(64).images
    ids = np.arange(64, dtype=np.int64) * 1_000_003
    expected = [
        _crop_flip(image, _draw(seed, int(place))) for image, place in zip(images, ids, strict=True)
    ]
    np.testing.assert_array_equal(augmentation.crop_flip(images, tf.constant(ids), seed), expected)


def test_the_stream_is_augmented_by_its_ids() -> None:
    plain = _list(batches.training_batches(_data(10), batch_size=10, epochs=2, seed=4))
    moved = _list(batches.training_batches(_data(10, "crop_flip"), batch_size=10, epochs=2, seed=4))
    for (images, labels, ids), (crops, crop_labels, crop_ids) in zip(plain, moved, strict=True):
        np.testing.assert_array_equal(labels, crop_labels)
        np.testing.assert_array_equal(ids, crop_ids)
        expected = [
            _crop_flip(image, _draw(4, int(place)))
            for image, place in zip(images, ids, strict=True)
        ]
        np.testing.assert_array_equal(crops, expected)


def test_an_images_augmentation_does_not_depend_on_its_batch() -> None:
    images, ids = _split(32).images, tf.range(32, dtype=tf.int64)
    whole = augmentation.crop_flip(images, ids, 1)
    for size in (1, 5):
        parts = [
            augmentation.crop_flip(images[start : start + size], ids[start : start + size], 1)
            for start in range(0, 32, size)
        ]
        np.testing.assert_array_equal(whole, tf.concat(parts, 0))


def test_augmentation_draws_are_uniform_and_independent() -> None:
    rows, columns, flips = (
        part.numpy() for part in augmentation.crop_flip_draws(tf.range(81_000, dtype=tf.int64), 0)
    )
    # 9 x 9 offsets and a flip: 162 cells of 500, deviation 22.3; 5 deviations either way.
    cells = np.bincount((rows * 9 + columns) * 2 + flips, minlength=162)
    np.testing.assert_allclose(cells, 500, atol=112)
    other = augmentation.crop_flip_draws(tf.range(81_000, dtype=tf.int64), 1)[0].numpy()
    # Two seeds agree on a row by chance: 1 in 9, deviation 0.0011.
    assert (rows == other).mean() == pytest.approx(1 / 9, abs=0.006)


def test_evaluation_keeps_the_order_and_the_short_last_batch() -> None:
    split = _split(10)
    stream = _list(batches.evaluation_batches(split, 4))
    assert [len(ids) for _, _, ids in stream] == [4, 4, 2]
    images, labels, ids = (np.concatenate(parts) for parts in zip(*stream, strict=True))
    np.testing.assert_array_equal(images, split.images.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(labels, split.labels)
    np.testing.assert_array_equal(ids, np.arange(10))
    assert [len(ids) for _, _, ids in _list(batches.evaluation_batches(split, 4, 6))] == [4, 2]
    assert sum(len(ids) for _, _, ids in _list(batches.evaluation_batches(split, 4, 99))) == 10


def test_to_float_spans_the_unit_interval() -> None:
    np.testing.assert_array_equal(
        batches.to_float(np.array([0, 51, 255], np.uint8)), np.array([0, 0.2, 1], np.float32)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; give an integer >= 1."),
        ({"epochs": -1}, "epochs is -1; give an integer >= 1."),
        ({"start_step": 7}, "start_step is 7; 2 epochs of 3 batches allow 0 to 6."),
        ({"start_step": -1}, "start_step is -1; 2 epochs of 3 batches allow 0 to 6."),
    ],
)
def test_training_batches_refuses(change: dict[str, int], message: str) -> None:
    settings = {"batch_size": 4, "epochs": 2, "seed": 0, **change}
    with pytest.raises(DataError) as caught:
        batches.training_batches(_data(10), **settings)
    assert str(caught.value) == message


def test_evaluation_batches_refuses_nothing_to_do() -> None:
    with pytest.raises(DataError, match="^examples is 0; give an integer >= 1.$"):
        batches.evaluation_batches(_split(10), 4, 0)
    with pytest.raises(DataError, match="^batch_size is 0; give an integer >= 1.$"):
        batches.evaluation_batches(_split(10), 0)
