"""Sets in memory: the embedded one, TFDS-format folders, the validation split, refusals."""

from __future__ import annotations

import json
import pathlib
import shutil
import socket

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets

import mtard_tf.data
from mtard_tf.data import catalogue, named_sets, tfds_sets, tfds_splits, writing
from mtard_tf.data.image_data import DataError, ImageData, Split, carve_validation

LABELS = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"tried the network: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _split(examples: int, channels: int = 3, seed: int = 0) -> Split:
    random = np.random.RandomState(seed)
    images = random.randint(0, 256, (examples, 6, 5, channels)).astype(np.uint8)
    return Split(images, (np.arange(examples) % 3).astype(np.int32))


def _write(
    data_dir: pathlib.Path, name: str = "toy", version: str = "1.0.0", channels: int = 3
) -> dict[str, Split]:
    splits = {"train": _split(30, channels), "test": _split(9, channels, seed=1)}
    writing.write_tfds(data_dir / name / version, name, splits, label_names=LABELS)
    return splits


def _write_features(folder: pathlib.Path, features: dict, splits: tuple[str, ...]) -> None:
    """A folder whose metadata says `features`; its records are empty, since none is read."""
    folder.mkdir(parents=True)
    name = folder.parent.name
    for split in splits:
        path = folder / f"{name}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(b"")
    tensorflow_datasets.folder_dataset.write_metadata(
        data_dir=str(folder), features=features, check_data=False
    )


def test_fashion_mini_holds_what_it_says() -> None:
    data = named_sets.fashion_mini()
    assert data.name == "fashion_mini"
    assert data.image_shape == (28, 28, 1)
    assert data.num_classes == 10
    assert (data.label_names[0], data.label_names[9]) == ("T-shirt/top", "Ankle boot")
    assert data.augmentation == "none"
    assert (len(data.train), len(data.validation), len(data.test)) == (5_400, 600, 1_000)
    for split, share in ((data.train, 540), (data.validation, 60), (data.test, 100)):
        np.testing.assert_array_equal(np.bincount(split.labels), [share] * 10)
    # Sums over the source's own IDX files: first 600 (100) of each class.
    train_sum = int(data.train.images.sum(dtype=np.int64) + data.validation.images.sum())
    assert train_sum == 344_160_204
    assert int(data.test.images.sum()) == 56_973_981
    # The first labels of Fashion-MNIST's test file, as its README shows them.
    np.testing.assert_array_equal(data.test.labels[:10], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7])


def test_fashion_mini_is_small_and_is_not_written_to() -> None:
    folder = pathlib.Path(named_sets.FASHION_MINI)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    named_sets.fashion_mini()
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4_000_000
    assert "MIT License" in (folder.parent / "LICENSE").read_text(encoding="utf-8")


def test_a_tfds_folder_comes_back_as_it_was_written(tmp_path: pathlib.Path) -> None:
    splits = _write(tmp_path)
    data = tfds_sets.tfds("toy", str(tmp_path), validation_examples=6)
    assert (data.name, data.label_names, data.augmentation) == ("toy", LABELS, "crop_flip")
    train, validation = carve_validation(splits["train"], 6)
    for got, wanted in (
        (data.train, train),
        (data.validation, validation),
        (data.test, splits["test"]),
    ):
        np.testing.assert_array_equal(got.images, wanted.images)
        np.testing.assert_array_equal(got.labels, wanted.labels)


def test_tfds_itself_reads_what_is_written(tmp_path: pathlib.Path) -> None:
    splits = _write(tmp_path)
    dataset, info = tensorflow_datasets.load(
        "toy", data_dir=str(tmp_path), split="train", with_info=True, download=False
    )
    assert info.splits["train"].num_examples == 30
    assert info.supervised_keys == ("image", "label")
    images = [example["image"] for example in dataset.as_numpy_iterator()]
    np.testing.assert_array_equal(images, splits["train"].images)


def test_grey_images_keep_a_channel_and_are_not_augmented(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, channels=1)
    data = tfds_sets.tfds("toy", str(tmp_path))
    assert data.image_shape == (6, 5, 1)
    assert data.augmentation == "none"
    assert tfds_sets.tfds("toy", str(tmp_path), augmentation="crop_flip").augmentation == (
        "crop_flip"
    )


def test_the_newest_version_is_found_and_another_can_be_named(tmp_path: pathlib.Path) -> None:
    for version in ("9.0.0", "10.0.0"):
        _write(tmp_path, version=version)
    (tmp_path / "toy" / ".11.0.0.incomplete-7").mkdir()
    assert catalogue.prepared_directory("toy", str(tmp_path)).name == "10.0.0"
    assert catalogue.prepared_directory("toy:9.0.0", str(tmp_path)).name == "9.0.0"


def test_a_config_is_named_after_a_slash(tmp_path: pathlib.Path) -> None:
    for config in ("fog", "rain"):
        _write(tmp_path / "toy", name=config)
    found = catalogue.prepared_directory("toy/fog", str(tmp_path))
    assert found == tmp_path / "toy" / "fog" / "1.0.0"
    with pytest.raises(DataError) as caught:
        catalogue.prepared_directory("toy", str(tmp_path))
    assert str(caught.value) == (
        f"toy at {tmp_path / 'toy'} has configs (fog, rain); name one: toy/fog."
    )


def test_the_default_data_dir_is_tfds_own(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(tfds_sets.tfds("toy").test) == 9
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert catalogue.default_data_dir() == "~/tensorflow_datasets"


@pytest.mark.parametrize("factory", [named_sets.fashion_mnist, named_sets.mnist])
def test_an_importable_set_that_is_not_prepared(factory, tmp_path: pathlib.Path) -> None:
    name = factory.__name__
    with pytest.raises(DataError) as caught:
        factory(str(tmp_path))
    assert str(caught.value) == (
        f"{name} is not prepared: looked in {tmp_path / name}; run `mtard-data import {name} "
        f"--source=DIR_WITH_IDX_FILES --data_dir={tmp_path}`."
    )


@pytest.mark.parametrize("factory", [named_sets.cifar10, named_sets.cifar100])
def test_another_set_that_is_not_prepared(factory, tmp_path: pathlib.Path) -> None:
    name = factory.__name__
    with pytest.raises(DataError) as caught:
        factory(str(tmp_path))
    assert str(caught.value) == (
        f"{name} is not prepared: looked in {tmp_path / name}; run `tfds build {name} "
        f"--data_dir={tmp_path}` where there is a network."
    )


def test_a_set_of_one_s_own_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError) as caught:
        catalogue.prepared_directory("photos", str(tmp_path))
    assert str(caught.value) == (
        f"photos is not prepared: looked in {tmp_path / 'photos'}; give the data_dir it was "
        f"imported to, or if TFDS has this set run `tfds build photos --data_dir={tmp_path}` where "
        "there is a network."
    )


def test_two_labels_need_a_choice(tmp_path: pathlib.Path) -> None:
    features = tensorflow_datasets.features
    _write_features(
        tmp_path / "two" / "1.0.0",
        {
            "image": features.Image(shape=(4, 4, 3)),
            "coarse": features.ClassLabel(num_classes=2),
            "fine": features.ClassLabel(num_classes=4),
        },
        ("train", "test"),
    )
    with pytest.raises(DataError) as caught:
        tfds_sets.tfds("two", str(tmp_path))
    assert str(caught.value) == (
        "two has the ClassLabel features (coarse, fine) and label_key is None; one image and one "
        "label are needed: name a fitting feature, or use another set."
    )
    with pytest.raises(DataError, match="label_key is 'image'"):
        tfds_sets.tfds("two", str(tmp_path), label_key="image")


@pytest.mark.parametrize(
    ("features", "splits", "message"),
    [
        (
            {"image": tensorflow_datasets.features.Image(shape=(None, None, 3))},
            ("train", "test"),
            "odd has images of shape (None, None, 3); a fixed [height, width, channels] is needed: "
            "resize them into a set of your own.",
        ),
        (
            {"image": tensorflow_datasets.features.Image(shape=(4, 4, 1), dtype=np.uint16)},
            ("train", "test"),
            "odd has uint16 images; uint8 is needed: convert them into a set of your own.",
        ),
        (
            {"text": tensorflow_datasets.features.Text()},
            ("train", "test"),
            "odd has the Image features (none) and image_key is None; one image and one label are "
            "needed: name a fitting feature, or use another set.",
        ),
        (
            {"image": tensorflow_datasets.features.Image(shape=(4, 4, 3))},
            ("train",),
            "odd has the splits (train); 'train' and 'test' or 'validation' are needed: write a "
            "set of your own with both, see mtard_tf.data.writing.",
        ),
        (
            {"image": tensorflow_datasets.features.Image(shape=(4, 4, 3))},
            ("train", "holdout"),
            "odd has the splits (holdout, train); 'train' and 'test' or 'validation' are needed: "
            "name a whole one with test_split.",
        ),
    ],
)
def test_a_set_that_does_not_fit(
    features: dict, splits: tuple[str, ...], message: str, tmp_path: pathlib.Path
) -> None:
    label = tensorflow_datasets.features.ClassLabel(num_classes=2)
    _write_features(tmp_path / "odd" / "1.0.0", {**features, "label": label}, splits)
    with pytest.raises(DataError) as caught:
        tfds_sets.tfds("odd", str(tmp_path))
    assert str(caught.value) == message


def test_a_set_without_a_test_split_is_tested_on_validation(tmp_path: pathlib.Path) -> None:
    splits = {"train": _split(30), "validation": _split(9, seed=1)}
    writing.write_tfds(tmp_path / "toy" / "1.0.0", "toy", splits, label_names=LABELS)
    data = tfds_sets.tfds("toy", str(tmp_path))
    np.testing.assert_array_equal(data.test.images, splits["validation"].images)
    assert (len(data.train), len(data.validation)) == (27, 3)


def test_a_set_over_the_limit_is_refused_before_it_is_read(tmp_path: pathlib.Path) -> None:
    _write(tmp_path)
    # 39 images of 90 bytes, 3 of them held out and copied: 3780.
    with pytest.raises(DataError) as caught:
        tfds_sets.tfds("toy", str(tmp_path), max_bytes=3_779)
    assert str(caught.value) == (
        "toy takes 0.00 GiB in memory, over the limit of 0.00 GiB; raise max_bytes if there is "
        "room, or convert it once with `mtard-data convert toy --out=DIR`, and stream it from "
        "data_dir=DIR."
    )
    assert len(tfds_sets.tfds("toy", str(tmp_path), max_bytes=3_780).train) == 27


@pytest.mark.parametrize(
    "wanted", ["train", "train[:80%]", "test+train", "test[:1]+train[1:]", " train", "all"]
)
def test_training_images_are_no_test_images(wanted: str, tmp_path: pathlib.Path) -> None:
    _write(tmp_path)
    with pytest.raises(DataError) as caught:
        tfds_sets.tfds("toy", str(tmp_path), test_split=wanted)
    assert str(caught.value) == (
        f"test_split is {wanted!r} of toy, which is trained on; name one of test."
    )


def test_a_part_of_a_split_is_no_test_split(tmp_path: pathlib.Path) -> None:
    _write(tmp_path)
    with pytest.raises(DataError) as caught:
        tfds_sets.tfds("toy", str(tmp_path), test_split="test[:50%]")
    assert str(caught.value) == (
        "toy has the splits (train, test); 'train' and 'test[:50%]' are needed: name a whole one "
        "with test_split."
    )


def test_splits_in_one_memory_are_not_trained_on() -> None:
    whole = _split(12)
    parts = [Split(whole.images[a:b], whole.labels[a:b]) for a, b in ((0, 6), (6, 9), (9, 12))]
    ImageData("toy", LABELS, *parts).check_trainable()
    even = [Split(whole.images[i::3], whole.labels[i::3]) for i in range(3)]
    ImageData("toy", LABELS, *even).check_trainable()
    for role, splits in (
        ("test", [parts[0], parts[1], parts[0]]),
        ("validation", [whole, parts[1], _split(4)]),
    ):
        with pytest.raises(DataError) as caught:
            ImageData("toy", LABELS, *splits).check_trainable()
        assert str(caught.value) == (
            f"toy: the {role} images are training images; give each split its own."
        )


@pytest.mark.parametrize("role", ["train", "validation"])
def test_an_empty_split_is_not_trained_on(role) -> None:
    splits = {"train": _split(12), "validation": _split(6), "test": _split(4)}
    splits[role] = _split(0)
    with pytest.raises(DataError) as caught:
        ImageData("toy", LABELS, **splits).check_trainable()
    assert str(caught.value) == (
        f"toy: the {role} split has no images; give it some, such as with "
        "mtard_tf.data.carve_validation(train)."
    )


def test_a_test_split_without_labels_can_be_read_but_not_counted_on(tmp_path) -> None:
    splits = {"train": _split(30), "test": _split(9, seed=1)}
    splits["test"].labels[[2, 5, 6]] = -1
    writing.write_tfds(tmp_path / "toy" / "1.0.0", "toy", splits, label_names=LABELS)
    data = tfds_sets.tfds("toy", str(tmp_path))
    data.check_trainable()
    np.testing.assert_array_equal(data.labelled("test", 2).labels, [0, 1])
    with pytest.raises(DataError) as caught:
        data.labelled("test")
    assert str(caught.value) == (
        "toy: 3 of 9 test images have no label, so nothing can be counted on them; use another "
        "split (mtard-eval --split=validation) or another set."
    )
    assert data.labelled("train") is not data.train and len(data.labelled("train")) == 27
    with pytest.raises(DataError, match="train labels run from -1 to 2"):
        ImageData("toy", LABELS, splits["test"], _split(3), _split(3))


def test_reading_moves_the_training_images_together(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tfds_splits, "_MOVED", 4)  # several turns
    monkeypatch.setattr(tfds_splits, "_READ_BYTES", 90 * 7)
    splits = _write(tmp_path)
    data = tfds_sets.tfds("toy", str(tmp_path), validation_examples=11)
    train, validation = carve_validation(splits["train"], 11)
    np.testing.assert_array_equal(data.train.images, train.images)
    np.testing.assert_array_equal(data.validation.images, validation.images)
    # One array of all 30 images, and the 11 that are held out.
    assert data.train.images.base.nbytes == 30 * 90 and data.validation.images.nbytes == 11 * 90


def test_a_damaged_folder_gives_one_line(tmp_path: pathlib.Path) -> None:
    _write(tmp_path)
    folder = tmp_path / "toy" / "1.0.0"
    (folder / "features.json").write_text("{")
    with pytest.raises(DataError, match="^TFDS cannot read .*; prepare it again.$") as caught:
        tfds_sets.tfds("toy", str(tmp_path))
    assert "\n" not in str(caught.value)
    shutil.rmtree(folder)
    _write(tmp_path)
    records = folder / "toy-train.tfrecord-00000-of-00001"
    records.write_bytes(records.read_bytes()[:500])
    with pytest.raises(DataError, match="^TFDS cannot read .*; prepare it again.$") as caught:
        tfds_sets.tfds("toy", str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
def test_a_features_class_of_a_stranger_is_not_imported(
    key: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TFDS would import the module, which runs it."""
    _write(tmp_path)
    folder = tmp_path / "toy" / "1.0.0"
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    described = json.loads((folder / "features.json").read_text())
    label = described["featuresDict"]["features"]["label"]
    label.pop("pythonClassName")
    label[key] = "stranger.Label"
    (folder / "features.json").write_text(json.dumps(described))
    with pytest.raises(
        DataError, match="names the class 'stranger.Label', whose module TFDS would"
    ):
        tfds_sets.read(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["[" * 100_000, "[", "3", '["a"]'])
def test_features_that_are_none(content: str, tmp_path: pathlib.Path) -> None:
    _write(tmp_path)
    folder = tmp_path / "toy" / "1.0.0"
    (folder / "features.json").write_text(content)
    with pytest.raises(DataError, match="cannot") as caught:
        tfds_sets.read(folder)
    assert "\n" not in str(caught.value)


def test_unknown_augmentation_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        named_sets.fashion_mini(augmentation="cutout")
    assert str(caught.value) == (
        "augmentation is 'cutout'; use one of none, crop_flip, crop_shift, idbh_weak, idbh_strong."
    )


def test_validation_keeps_the_shares_of_the_classes() -> None:
    # 60 : 30 : 10 examples; 11 held out are 6.6 : 3.3 : 1.1, by largest remainder 7 : 3 : 1.
    labels = np.repeat(np.arange(3), (60, 30, 10)).astype(np.int32)
    images = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    train, validation = carve_validation(Split(images, labels), 11)
    np.testing.assert_array_equal(np.bincount(validation.labels), [7, 3, 1])
    np.testing.assert_array_equal(np.bincount(train.labels), [53, 27, 9])
    both = np.concatenate([train.images, validation.images]).ravel()
    np.testing.assert_array_equal(np.sort(both), np.arange(100))
    np.testing.assert_array_less(0, np.diff(train.images.ravel().astype(int)))


def test_validation_depends_on_its_seed_alone() -> None:
    split = _split(30)
    same, again = carve_validation(split, 6, seed=1)[1], carve_validation(split, 6, seed=1)[1]
    other = carve_validation(split, 6, seed=2)[1]
    np.testing.assert_array_equal(same.images, again.images)
    assert (same.images != other.images).any()


def test_validation_default_is_a_tenth_and_at_most_5000() -> None:
    images = np.zeros((70_000, 1, 1, 1), np.uint8)
    labels = np.zeros(70_000, np.int32)
    assert len(carve_validation(Split(images, labels))[1]) == 5_000
    assert len(carve_validation(Split(images[:70], labels[:70]))[1]) == 7


@pytest.mark.parametrize("examples", [0, -1, 30])
def test_validation_size_out_of_range(examples: int) -> None:
    with pytest.raises(DataError) as caught:
        carve_validation(_split(30), examples)
    assert str(caught.value) == (
        f"validation_examples is {examples} of 30 training examples; give 1 to 29: checkpoints "
        "are chosen on the validation split."
    )


def test_split_refuses_other_arrays() -> None:
    good = _split(3)
    with pytest.raises(DataError, match=r"^Split.images is float32 \(3, 6, 5, 3\); give uint8"):
        Split(good.images.astype(np.float32), good.labels)
    with pytest.raises(DataError, match=r"^Split.labels is int64 \(3,\) for 3 images; give int32"):
        Split(good.images, good.labels.astype(np.int64))
    with pytest.raises(DataError, match=r"^Split.labels is int32 \(2,\) for 3 images; give int32"):
        Split(good.images, good.labels[:2])


def test_image_data_refuses_splits_that_disagree() -> None:
    colour, grey = _split(3), _split(3, channels=1)
    with pytest.raises(DataError) as caught:
        ImageData("toy", LABELS, colour, colour, grey)
    assert str(caught.value) == (
        "toy: test images are (6, 5, 1), train images are (6, 5, 3); all splits need one shape."
    )
    with pytest.raises(DataError) as caught:
        ImageData("toy", LABELS[:2], colour, colour, colour)
    assert str(caught.value) == (
        "toy: train labels run from 0 to 2, but there are 2 label names; give one name per class."
    )


def test_every_public_name_is_there() -> None:
    for name in mtard_tf.data.__all__:
        assert getattr(mtard_tf.data, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'imagenet'"):
        _ = mtard_tf.data.imagenet


def test_the_table_lists_what_is_prepared(tmp_path: pathlib.Path) -> None:
    assert "  nothing\n" in catalogue.table(str(tmp_path))
    _write(tmp_path)
    _write(tmp_path / "other", name="fog")
    lines = catalogue.table(str(tmp_path)).splitlines()
    assert lines[1:3] == ["  toy              1.0.0", "  other/fog        1.0.0"]
    for name in catalogue.KNOWN:
        assert any(line.startswith(f"  {name} ") for line in lines)
        assert callable(getattr(mtard_tf.data, name))
