"""A folder of image files: what is decoded, what is refused, and the set that an import writes."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from mtard_tf.commands import data as command
from mtard_tf.commands import requests
from mtard_tf.data import photo_folders, photos, tfds_sets, tfds_splits
from mtard_tf.data.image_data import DataError, ImageData, Split

ROOT = pathlib.Path(__file__).parent.parent
CLASSES = ("cat", "dog", "owl")
SUFFIXES = (".png", ".jpg", ".webp", ".bmp", ".gif")
SETTINGS = {"size": 16, "skip_broken": True}


def _noise(seed: int, height: int = 20, width: int = 26, channels: int = 3) -> np.ndarray:
    values = np.random.RandomState(seed).randint(0, 256, (height, width, channels))
    return values.astype(np.uint8)


def _write_classes(folder: pathlib.Path, count: int, seed: int = 0) -> None:
    """`count` PNG files in each of the classes a and b."""
    for place, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = _noise(seed + 1000 * place + number, 5, 4)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """300 photos of five kinds: one CMYK, one grey, one 16-bit, one broken; 3 other files."""
    folder = tmp_path_factory.mktemp("mixed") / "photos"
    for place, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(100):
            image = Image.fromarray(_noise(100 * place + number, 20 + number % 7))
            image.save(folder / name / f"{number:03}{SUFFIXES[number % 5]}")
    Image.fromarray(_noise(1)).convert("CMYK").save(folder / "cat" / "001.jpg")
    Image.fromarray(_noise(2)).convert("L").save(folder / "cat" / "006.jpg")
    deep = np.arange(400, dtype=np.uint16).reshape(20, 20) * 160
    Image.fromarray(deep).save(folder / "dog" / "000.png")
    (folder / "owl" / "099.gif").unlink()
    Image.fromarray(_noise(3)).save(folder / "owl" / "099.jpg")
    whole = (folder / "owl" / "099.jpg").read_bytes()
    (folder / "owl" / "099.jpg").write_bytes(whole[:-100])
    shutil.copy(folder / "cat" / "000.png", folder / "cat" / ".hidden.png")
    (folder / "dog" / "notes.txt").write_text("not an image")
    (folder / "cover.HEIC").write_text("not in a class")
    return folder


def _truncated(folder: pathlib.Path) -> str:
    with pytest.raises(OSError, match="image file is truncated") as caught:
        photos.decode(folder / "owl" / "099.jpg", 16, 3)
    return f"owl/099.jpg ({caught.value})"


def _import(source: pathlib.Path, data_dir: pathlib.Path, name: str = "pets", **settings) -> str:
    request = requests.Data(str(data_dir), str(source), name, **settings)
    return command.run(request, ["import", "images"])


def _refused(source: pathlib.Path, **settings) -> str:
    """The one line with which both ways in refuse a folder; nothing may have been written."""
    data_dir = source.parent / "sets"
    with pytest.raises(DataError) as caught:
        _import(source, data_dir, **settings)
    assert "\n" not in str(caught.value)
    assert [path for path in data_dir.rglob("*") if path.name != "pets"] == []
    with pytest.raises(DataError) as again:
        ImageData.from_folder(source, **settings)
    assert str(again.value) == str(caught.value)
    return str(caught.value).replace(str(source), "SOURCE")


def _assert_same(one: Split, other: Split) -> None:
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)


def test_an_import_of_mixed_photos_says_what_is_in_it(mixed, tmp_path) -> None:
    said = _import(mixed, tmp_path, **SETTINGS)
    assert said.splitlines() == [
        "          train  validation        test",
        "cat          80          10          10",
        "dog          80          10          10",
        "owl          80          10           9",
        "all         240          30          29",
        "Skipped: 1 .heic, 1 .txt, 1 hidden.",
        f"Broken: {_truncated(mixed)}",
        f"pets is in {tmp_path}/pets/1.0.0: train on it with Experiment.dataset = @datasets.tfds "
        "and datasets.tfds.name = 'pets'.",
    ]
    assert sorted(path.name for path in (tmp_path / "pets").iterdir()) == ["1.0.0"]
    data = tfds_sets.tfds("pets", str(tmp_path))
    assert data.label_names == CLASSES and data.augmentation == "crop_flip"
    assert data.image_shape == (16, 16, 3)
    # The first images are a sample of the classes, not the first class.
    np.testing.assert_array_equal(np.unique(data.test.labels[:12]), [0, 1, 2])
    again = ImageData.from_folder(mixed, **SETTINGS)
    assert again.label_names == data.label_names and again.augmentation == data.augmentation
    for role in ("train", "validation", "test"):
        _assert_same(getattr(again, role), getattr(data, role))


def test_tfds_reads_what_was_written_and_a_second_import_writes_the_same(mixed, tmp_path) -> None:
    for folder in ("one", "two"):
        _import(mixed, tmp_path / folder, **SETTINGS)
    files = [
        p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*") if p.is_file()
    ]
    assert sum(".array_record" in path.name for path in files) == 3
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
    builder = tensorflow_datasets.builder_from_directory(str(tmp_path / "one" / "pets" / "1.0.0"))
    assert builder.info.features["label"].names == list(CLASSES)
    assert builder.info.features["image"].shape == (16, 16, 3)
    assert "resized to 16 x 16 (bicubic, antialiased). Splits: 80/10/10" in builder.info.description
    source = tensorflow_datasets.data_source("pets", split="test", data_dir=str(tmp_path / "one"))
    data = ImageData.from_folder(mixed, **SETTINGS)
    assert len(source) == 29
    np.testing.assert_array_equal([example["image"] for example in source], data.test.images)
    assert [example["label"] for example in source] == list(data.test.labels)


def test_a_damaged_set_is_refused_in_one_line(tmp_path, monkeypatch, capfd) -> None:
    _write_classes(tmp_path / "photos", 8)
    _import(tmp_path / "photos", tmp_path, size=4)
    monkeypatch.setattr(tfds_splits, "_RECORDS", 5)  # several turns
    folder = ImageData.from_folder(tmp_path / "photos", size=4)
    _assert_same(tfds_sets.tfds("pets", str(tmp_path)).train, folder.train)
    (path,) = (tmp_path / "pets").rglob("*train*")
    content = path.read_bytes()
    capfd.readouterr()
    for part in (content[:1_000], content[:200] + bytes(300) + content[500:]):
        path.write_bytes(part)
        with pytest.raises(DataError, match="^TFDS cannot read .*; prepare it again.$") as caught:
            tfds_sets.tfds("pets", str(tmp_path))
        assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_broken_files_and_a_name_that_is_taken_are_refused(mixed, tmp_path) -> None:
    shutil.copytree(mixed, tmp_path / "photos")
    assert _refused(tmp_path / "photos", size=16) == (
        f"SOURCE has broken files (1): {_truncated(mixed)}; repair or remove them, or leave them "
        "out with skip_broken."
    )
    (tmp_path / "sets" / "pets" / "1.0.0").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        _import(mixed, tmp_path / "sets")
    assert str(caught.value) == (
        f"{tmp_path}/sets/pets/1.0.0 exists already; remove it to write pets again."
    )
    for name, message in (
        ("sets/pets", "the set's name is 'sets/pets'; give lower-case letters"),
        ("mnist", "mnist is the name of another data set; give one of your own."),
    ):
        with pytest.raises(DataError, match=message):
            _import(mixed, tmp_path, name)


def test_one_image_in_train_and_test_is_refused_by_both_names(tmp_path) -> None:
    for seed, role in enumerate(("train", "test")):
        _write_classes(tmp_path / "photos" / role, 3, 100 * seed)
    image = tmp_path / "photos" / "train" / "a" / "1.png"
    shutil.copy(image, tmp_path / "photos" / "test" / "b" / "copy.png")
    Image.open(image).save(tmp_path / "photos" / "test" / "a" / "copy.bmp")  # other bytes
    shutil.copy(image, tmp_path / "photos" / "train" / "a" / "twin.png")  # twice in one split
    message = _refused(tmp_path / "photos", size=8)
    first = next(name for name in ("1.png", "twin.png") if f"train/a/{name} (train)" in message)
    pairs = [f"train/a/{first} (train) and test/{c} (test)" for c in ("a/copy.bmp", "b/copy.png")]
    listed = [", ".join(order) for order in (pairs, pairs[::-1])]
    assert message in [
        f"SOURCE has the same image in two splits (2): {pair}; remove one of each."
        for pair in listed
    ]


def test_a_divided_folder_keeps_its_splits(tmp_path) -> None:
    for seed, role in enumerate(("Train", "val", "test")):
        _write_classes(tmp_path / "photos" / role, 4 - seed, 100 * seed)
    data = ImageData.from_folder(tmp_path / "photos", size=4)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 6, 4]
    _import(tmp_path / "photos", tmp_path, size=4)
    _assert_same(tfds_sets.tfds("pets", str(tmp_path)).validation, data.validation)
    held_out = tfds_sets.tfds("pets", str(tmp_path), validation_examples=2)
    assert (len(held_out.train), len(held_out.validation)) == (6, 2)
    assert _refused(tmp_path / "photos", splits="80/10/10") == (
        "SOURCE is divided into train, validation, test already; leave splits out."
    )


@pytest.mark.parametrize("tested", ["test", "val"])
def test_without_a_third_folder_train_is_held_out_as_of_other_sets(tested, tmp_path) -> None:
    for seed, role in enumerate(("train", tested)):
        _write_classes(tmp_path / "photos" / role, 20 - 10 * seed, 100 * seed)
    data = ImageData.from_folder(tmp_path / "photos", size=4)
    _import(tmp_path / "photos", tmp_path, size=4)
    imported = tfds_sets.tfds("pets", str(tmp_path))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [36, 4, 20]
    for role in ("train", "validation", "test"):
        _assert_same(getattr(imported, role), getattr(data, role))


def test_the_split_of_an_image_depends_on_its_name_alone(tmp_path) -> None:
    _write_classes(tmp_path / "photos", 30)
    before = photo_folders.list_photos(tmp_path / "photos", "60/20/20").photos
    assert {role: len(found) for role, found in before.items()} == {
        "train": 36,
        "validation": 12,
        "test": 12,
    }
    shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere")
    after = photo_folders.list_photos(tmp_path / "elsewhere", "60/20/20").photos
    for role, found in before.items():
        assert [photo.name for photo in found] == [photo.name for photo in after[role]]
    names = [photo.name for found in before.values() for photo in found]
    assert len(set(names)) == len(names) == 60


@pytest.mark.parametrize("count", [3, 4, 7])
@pytest.mark.parametrize("splits", ["80/10/10", "1/49/50", "1/1/98", "98/1/1"])
def test_every_class_has_an_image_in_each_split(count: int, splits: str, tmp_path) -> None:
    _write_classes(tmp_path, count)
    for found in photo_folders.list_photos(tmp_path, splits).photos.values():
        assert {photo.label for photo in found} == {0, 1}


def _nothing(folder: pathlib.Path) -> None:
    folder.mkdir()


def _loose(folder: pathlib.Path) -> None:
    folder.mkdir()
    Image.fromarray(_noise(0)).save(folder / "a.png")


def _one_class(folder: pathlib.Path) -> None:
    _write_classes(folder, 4)
    shutil.rmtree(folder / "b")


def _small(folder: pathlib.Path) -> None:
    _write_classes(folder, 3)
    (folder / "b" / "0.png").unlink()
    (folder / "empty").mkdir()


def _unequal(folder: pathlib.Path) -> None:
    _write_classes(folder / "train", 2)
    _write_classes(folder / "test", 2, 100)
    (folder / "test" / "b").rename(folder / "test" / "c")


def _unfilled(folder: pathlib.Path) -> None:
    _write_classes(folder / "train", 2)
    (folder / "test" / "a").mkdir(parents=True)
    (folder / "test" / "b").mkdir()


def _half_divided(folder: pathlib.Path) -> None:
    _write_classes(folder / "train", 2)


def _beside(folder: pathlib.Path) -> None:
    for role in ("train", "test", "extra"):
        _write_classes(folder / role, 2)


def _classes(folder: pathlib.Path) -> None:
    _write_classes(folder, 4)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda folder: None, {}, "SOURCE is not a folder; give one that has a folder of images"),
        (_nothing, {}, "SOURCE has no images; give a folder with a folder of PNG, JPEG, WebP"),
        (_loose, {}, "SOURCE has 1 images, but none in a folder of its class; give a folder with"),
        (_one_class, {}, "SOURCE has one class, a; two or more are needed, a folder each."),
        (
            _small,
            {},
            "SOURCE has too few images in b (2), empty (0); every class needs one in each split, "
            "so 3 or more here: add some, or remove the class.",
        ),
        (
            _unequal,
            {},
            "SOURCE: test lacks b, and train lacks c, which test has; every split needs a folder "
            "of every class.",
        ),
        (_unfilled, {}, "SOURCE has too few images in test/a (0), test/b (0); every class needs"),
        (_half_divided, {}, "SOURCE is divided into train; give train and test, with or without"),
        (_beside, {}, "SOURCE has extra beside test, train; give a folder that has either splits"),
        (_classes, {"size": 0}, "size is 0; give an integer >= 1, the height and width."),
        (_classes, {"channels": 2}, "channels is 2; give 3 (colour) or 1 (grey)."),
        (
            _classes,
            {"splits": "80/10/11"},
            "splits is '80/10/11'; give whole percentages of train, validation and test, each at "
            "least 1, that sum to 100, as 80/10/10.",
        ),
        (_classes, {"splits": "90/10"}, "splits is '90/10'; give whole percentages"),
        (_classes, {"splits": "90/0/10"}, "splits is '90/0/10'; give whole percentages"),
    ],
)
def test_a_folder_that_is_no_set(make, settings: dict, message: str, tmp_path) -> None:
    make(tmp_path / "photos")
    assert _refused(tmp_path / "photos", **settings).startswith(message)


def test_a_class_of_broken_files_only_is_refused(tmp_path) -> None:
    _write_classes(tmp_path / "photos", 3)
    for path in (tmp_path / "photos" / "b").iterdir():
        path.write_bytes(b"")
    assert _refused(tmp_path / "photos", size=4, skip_broken=True) == (
        "SOURCE has only broken files of b (train), b (validation), b (test); every class needs an "
        "image in each split."
    )


def test_a_class_may_be_called_train(tmp_path) -> None:
    _write_classes(tmp_path, 3)
    (tmp_path / "b").rename(tmp_path / "train")
    assert photo_folders.list_photos(tmp_path).label_names == ("a", "train")


def test_links_to_folders_are_followed_but_in_no_circle(tmp_path) -> None:
    _write_classes(tmp_path / "elsewhere", 3)
    (tmp_path / "photos").mkdir()
    for name in "ab":
        (tmp_path / "photos" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "a" / "round").symlink_to(tmp_path / "elsewhere")
    listing = photo_folders.list_photos(tmp_path / "photos")
    assert sum(map(len, listing.photos.values())) == 6
    assert listing.skipped == {"links to a folder above": 1}


def test_a_folder_over_the_limit_is_refused_before_it_is_read(tmp_path) -> None:
    _write_classes(tmp_path, 3)
    with pytest.raises(DataError, match="0.00 GiB in memory, over the limit of 0.00 GiB"):
        ImageData.from_folder(tmp_path, size=4, max_bytes=6 * 48 - 1)
    assert len(ImageData.from_folder(tmp_path, size=4, max_bytes=6 * 48).train) == 2


def _decoded(image: Image.Image, path: pathlib.Path, channels: int = 3, **options) -> np.ndarray:
    image.save(path, **options)
    return photos.decode(path, min(image.size), channels)


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_orientation_of_exif_is_applied(orientation: int, tmp_path) -> None:
    pixels = _noise(0, 3, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = _decoded(Image.fromarray(pixels), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(found, UPRIGHT[orientation](pixels))


def test_transparency_is_laid_over_white(tmp_path) -> None:
    colours = np.array([[[200, 100, 0, 255], [200, 100, 0, 0]], [[200, 100, 0, 51]] * 2], np.uint8)
    found = _decoded(Image.fromarray(colours), tmp_path / "a.png")
    # A fifth of the colour and four fifths of white.
    expected = [[[200, 100, 0], [255, 255, 255]], [[244, 224, 204]] * 2]
    np.testing.assert_array_equal(found, expected)
    palette = Image.fromarray(np.eye(2, dtype=np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    found = _decoded(palette, tmp_path / "b.gif", transparency=1)
    np.testing.assert_array_equal(found[0], [[255, 255, 255], [10, 20, 30]])


def test_sixteen_bits_are_scaled_and_not_cut(tmp_path) -> None:
    deep = np.array([[0, 128, 129], [257 * 7, 257 * 7 + 200, 40_000], [65_406, 65_407, 65_535]])
    found = _decoded(Image.fromarray(deep.astype(np.uint16)), tmp_path / "a.png")
    np.testing.assert_array_equal(found[..., 0], [[0, 0, 1], [7, 8, 156], [254, 255, 255]])
    np.testing.assert_array_equal(found, np.repeat(found[..., :1], found.shape[-1], axis=-1))


def test_cmyk_is_about_its_colours(tmp_path) -> None:
    colours = np.full((16, 16, 3), (200, 120, 40), np.uint8)
    image = Image.fromarray(colours).convert("CMYK")
    found = _decoded(image, tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(found.astype(int), colours, atol=3)


def test_grey_is_repeated_and_colour_becomes_its_luma(tmp_path) -> None:
    grey = _noise(0, 4, 4, 1)[..., 0]
    found = _decoded(Image.fromarray(grey), tmp_path / "a.png")
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(photos.decode(tmp_path / "a.png", 4, 1)[..., 0], grey)
    colour = np.full((2, 2, 3), (100, 150, 200), np.uint8)
    found = _decoded(Image.fromarray(colour), tmp_path / "b.png", channels=1)
    # .299 * 100 + .587 * 150 + .114 * 200
    np.testing.assert_array_equal(found, np.full((2, 2, 1), 141))


def test_the_middle_square_is_cut_out_and_resized(tmp_path) -> None:
    pixels = _noise(0, 4, 10)
    found = _decoded(Image.fromarray(pixels), tmp_path / "a.png")
    np.testing.assert_array_equal(found, pixels[:, 3:7])
    # Black left of the middle, white right of it.
    halves = np.repeat([0, 255], 40).astype(np.uint8)[None].repeat(80, 0)
    Image.fromarray(halves).save(tmp_path / "b.png")
    small = photos.decode(tmp_path / "b.png", 4, 1)[..., 0]
    np.testing.assert_array_equal(small, [[0, 20, 235, 255]] * 4)


def test_of_an_animation_the_first_frame_whatever_the_name(tmp_path) -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (50, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "a.gif").rename(tmp_path / "a.png")
    np.testing.assert_array_equal(photos.decode(tmp_path / "a.png", 4, 1), 50)


RUN = """
Experiment.epsilon = 0.05
Experiment.stages = ('net',)
Stage.model = @models.small_cnn
models.small_cnn.widths = (4, 4, 8, 8)
models.small_cnn.dense = 16
net/Stage.distiller = @distillers.natural
Stage.epochs = 1
Stage.batch_size = 60
Stage.validation_attack = None
"""


@pytest.mark.slow
def test_from_a_folder_to_an_export(mixed, tmp_path, monkeypatch) -> None:
    """Both ways in train to the same bits; the run finds a relative folder from elsewhere."""

    def called(name: str, *flags: str) -> str:
        command = [sys.executable, "-m", f"mtard_tf.bin.{name}", *flags]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    monkeypatch.chdir(mixed.parent)
    flags = ("--source=photos", "--out=pets", f"--data_dir={tmp_path}", "--size=16")
    said = called("data", "import", "images", *flags, "--skip_broken")
    assert "all         240          30          29" in said
    ways = {
        "imported": f"@datasets.tfds\ndatasets.tfds.name = 'pets'\ndatasets.tfds.data_dir = "
        f"'{tmp_path}'",
        "folder": "@datasets.image_folder\ndatasets.image_folder.path = 'photos'\n"
        "datasets.image_folder.size = 16\ndatasets.image_folder.skip_broken = True",
    }
    for way, dataset in ways.items():
        (tmp_path / f"{way}.gin").write_text(f"{RUN}Experiment.dataset = {dataset}\n")
        called("train", f"--config={tmp_path}/{way}.gin", f"--run_dir={tmp_path}/{way}")
    nets = [keras.models.load_model(tmp_path / way / "net" / "student.keras") for way in ways]
    for one, other in zip(*(net.get_weights() for net in nets), strict=True):
        np.testing.assert_array_equal(one, other)
    monkeypatch.chdir(tmp_path)
    run = f"--run_dir={tmp_path}/folder"
    called("eval", run, "--stage=net", "--suite=quick", "--examples=10")
    called("export", run, "--stage=net")
    assert len(list((tmp_path / "folder" / "export" / "net").rglob("saved_model.pb"))) == 1
