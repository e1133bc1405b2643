"""IDX files to TFDS format: what is checked, what is written, and the command."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import pathlib
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets

from mtard_tf.commands import data as command
from mtard_tf.commands import requests
from mtard_tf.data import named_sets, preparing, tfds_sets
from mtard_tf.data.idx import read_idx
from mtard_tf.data.image_data import DataError, Split

ROOT = pathlib.Path(__file__).parent.parent
FILES = {"train": ("train", 40), "test": ("t10k", 20)}


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def contents() -> dict[str, bytes]:
    """A miniature of the four files: 40 training and 20 test images, 28 x 28, ten classes."""
    random = np.random.RandomState(0)
    files = {}
    for prefix, count in FILES.values():
        images = random.randint(0, 256, (count, 28, 28)).astype(np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = _idx(images)
        files[f"{prefix}-labels-idx1-ubyte"] = _idx((np.arange(count) % 10).astype(np.uint8))
    return files


@pytest.fixture
def source(contents: dict[str, bytes]) -> preparing.IdxSource:
    """Fashion-MNIST's entry, with the sizes and digests of the miniature."""
    return dataclasses.replace(
        preparing.SOURCES["fashion_mnist"],
        sizes={"train": 40, "test": 20},
        digests={name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    )


@pytest.fixture
def source_dir(contents: dict[str, bytes], tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, data in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    return folder


def _message(source: preparing.IdxSource, folder: pathlib.Path) -> str:
    """The one line with which an import is refused; nothing may have been written."""
    data_dir = folder.parent / "tfds"
    with pytest.raises(DataError) as caught:
        preparing.import_idx(source, str(folder), str(data_dir))
    assert "\n" not in str(caught.value)
    assert not list(data_dir.rglob("*.tfrecord*"))
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_an_import_is_read_by_tfds_and_by_us(
    zipped: bool,
    source: preparing.IdxSource,
    source_dir: pathlib.Path,
    contents: dict[str, bytes],
    tmp_path: pathlib.Path,
) -> None:
    if not zipped:
        for name, data in contents.items():
            (source_dir / f"{name}.gz").unlink()
            (source_dir / name).write_bytes(data)
    seen = []
    folder = preparing.import_idx(
        source,
        str(source_dir),
        str(tmp_path / "tfds"),
        progress=lambda places, role: seen.append((role, len(places))) or places,
    )
    assert seen == [("train", 40), ("test", 20)]
    assert folder == tmp_path / "tfds" / "fashion_mnist" / "3.0.1"
    # TFDS finds it under its own builder's version and by its own code.
    builder = tensorflow_datasets.builder(
        "fashion_mnist", data_dir=str(tmp_path / "tfds"), try_gcs=False
    )
    assert type(builder).__name__ == "FashionMNIST"
    read = list(builder.as_dataset(split="test").as_numpy_iterator())
    pixels = np.frombuffer(contents["t10k-images-idx3-ubyte"][16:], np.uint8)
    np.testing.assert_array_equal(
        [example["image"] for example in read], pixels.reshape(20, 28, 28, 1)
    )
    assert [example["label"] for example in read] == [*range(10)] * 2
    data = named_sets.fashion_mnist(str(tmp_path / "tfds"), validation_examples=10)
    assert data.label_names == source.label_names == tuple(builder.info.features["label"].names)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 20)
    np.testing.assert_array_equal(data.test.images.ravel(), pixels)


def test_what_an_import_says_that_it_checked() -> None:
    assert sorted(preparing.SOURCES["fashion_mnist"].digests) == [
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
    ]
    assert preparing.SOURCES["fashion_mnist"].assurance == (
        "counts and SHA-256 of the contents are right"
    )

    assert preparing.named_source("mnist").assurance == (
        "counts are right; no SHA-256 of the contents is known to check"
    )


def test_an_unknown_name() -> None:
    with pytest.raises(DataError) as caught:
        preparing.named_source("kmnist")
    expected = "'kmnist' cannot be imported; use one of fashion_mnist, mnist, tiny_imagenet."
    assert str(caught.value) == expected


def test_a_missing_file(source: preparing.IdxSource, source_dir: pathlib.Path) -> None:
    (source_dir / "t10k-labels-idx1-ubyte.gz").unlink()
    assert _message(source, source_dir) == (
        f"{source_dir}/t10k-labels-idx1-ubyte[.gz] is missing; --source is the folder with the "
        "four IDX files."
    )


def test_another_content(
    source: preparing.IdxSource, source_dir: pathlib.Path, contents: dict[str, bytes]
) -> None:
    changed = contents["train-images-idx3-ubyte"][:-1] + b"\0"
    path = source_dir / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(changed))
    assert _message(source, source_dir) == (
        f"{path} is not fashion_mnist's: its content has SHA-256 "
        f"{hashlib.sha256(changed).hexdigest()}, expected "
        f"{source.digests['train-images-idx3-ubyte']}; fetch the file again."
    )


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (
            lambda content: content[:-100],
            "Compressed file ended before the end-of-stream marker was reached",
        ),
        (lambda _: b"<html>404</html>", "Not a gzipped file (b'<h')"),
    ],
)
def test_a_damaged_archive(
    source: preparing.IdxSource, source_dir: pathlib.Path, damaged: Callable, reason: str
) -> None:
    path = source_dir / "train-images-idx3-ubyte.gz"
    path.write_bytes(damaged(path.read_bytes()))
    assert _message(source, source_dir) == (
        f"{path} cannot be read ({reason}); fetch the file again."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sizes": {"train": 41, "test": 20}},
            "train images (40, 28, 28) and labels (40,); fashion_mnist has (41, 28, 28) and (41,)",
        ),
        (
            {"label_names": tuple("abcdefghi")},
            "the train label 9; fashion_mnist has 9 classes",
        ),
    ],
)
def test_files_that_are_not_of_the_set(
    source: preparing.IdxSource, source_dir: pathlib.Path, changes: dict, message: str
) -> None:
    changed = dataclasses.replace(source, **changes)
    assert _message(changed, source_dir) == f"{source_dir} has {message}: fetch the files again."


def test_idx_of_another_kind(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(_idx(np.arange(5, dtype=np.uint8)))
    np.testing.assert_array_equal(read_idx(path, dimensions=1)[0], np.arange(5))
    with pytest.raises(DataError) as caught:
        read_idx(path, dimensions=3)
    assert str(caught.value) == (
        f"{path} begins with 00 00 08 01; an IDX file of bytes with 3 dimension(s) begins with "
        "00 00 08 03: fetch the file again."
    )
    path.write_bytes(_idx(np.arange(5, dtype=np.uint8))[:-1])
    with pytest.raises(DataError) as caught:
        read_idx(path, dimensions=1)
    assert str(caught.value) == (
        f"{path} holds 12 bytes, its header announces 13; fetch the file again."
    )


def test_sizes_of_an_idx_file_that_lie(tmp_path: pathlib.Path) -> None:
    """Also where their product is no 64-bit number, and where gzip would unfold more than asked."""
    most = 2**32 - 1
    for sizes, content, message in (
        ((most, most, most), b"", f"holds 16 bytes, its header announces {most**3 + 16};"),
        ((2**31, 2**31, 4), b"", f"holds 16 bytes, its header announces {2**64 + 16};"),
        ((2, 2, 2), bytes(9), "holds more bytes than that, its header announces 24;"),
        ((2, 2, 2), bytes(1 << 26), "holds more bytes than that, its header announces 24;"),
    ):
        data = struct.pack(">BBBB3I", 0, 0, 8, 3, *sizes) + content
        for name, stored in (("images", data), ("images.gz", gzip.compress(data))):
            path = tmp_path / name
            path.write_bytes(stored)
            with pytest.raises(DataError, match=re.escape(f"{path} {message}")):
                read_idx(path, dimensions=3)


def test_an_existing_target_is_kept(
    source: preparing.IdxSource, source_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "tfds" / "fashion_mnist" / "3.0.1"
    target.mkdir(parents=True)
    (target / "mine").write_text("kept")
    assert _message(source, source_dir) == (
        f"{target} exists already; remove it to write fashion_mnist again."
    )
    assert (target / "mine").read_text() == "kept"


def test_an_unwritable_data_dir(
    source: preparing.IdxSource, source_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "tfds").write_text("a file, where a folder is needed")
    with pytest.raises(DataError) as caught:
        preparing.import_idx(source, str(source_dir), str(tmp_path / "tfds"))
    target = tmp_path / "tfds" / "fashion_mnist" / "3.0.1"
    assert str(caught.value).startswith(f"{target} cannot be written ([Errno 20] Not a directory")
    assert str(caught.value).endswith("); choose another folder or make room.")


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (tf.errors.ResourceExhaustedError(None, None, "No space left on device"), DataError),
    ],
)
def test_a_broken_off_import_leaves_nothing(
    failure: BaseException,
    raised: type[BaseException],
    source: preparing.IdxSource,
    source_dir: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    def progress(places, role):
        for place in places:
            if (role, place) == ("test", 3):
                raise failure
            yield place

    with pytest.raises(raised):
        preparing.import_idx(source, str(source_dir), str(tmp_path / "tfds"), progress=progress)
    assert list((tmp_path / "tfds" / "fashion_mnist").iterdir()) == []


def test_fewer_records_than_announced(
    source: preparing.IdxSource, source_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = preparing.import_idx(source, str(source_dir), str(tmp_path / "tfds"))
    (folder / "fashion_mnist-test.tfrecord-00000-of-00001").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        tfds_sets.read(folder, validation_examples=10)
    assert str(caught.value) == (
        f"TFDS cannot read {folder} (Input dataset was expected to contain 20 elements but "
        "contained only 0 elements.); prepare it again."
    )


def test_the_mini_set_is_the_first_of_each_class() -> None:
    labels = np.array([2, 0, 0, 1, 2, 1, 0, 2], np.int32)
    images = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    mini = preparing.first_per_class(Split(images, labels), 2)
    np.testing.assert_array_equal(mini.images.ravel(), [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(mini.labels, labels[:6])


def test_the_mini_set_is_written_with_all_classes(
    source: preparing.IdxSource,
    source_dir: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(preparing.SOURCES, "fashion_mnist", source)
    monkeypatch.setattr(preparing, "MINI_SIZES", {"train": 30, "test": 10})
    folder = preparing.make_fashion_mini(str(source_dir), str(tmp_path / "1.0.0"))
    data = tfds_sets.read(folder, validation_examples=10)
    assert data.name == "fashion_mini"
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 10, 10)
    np.testing.assert_array_equal(np.bincount(data.train.labels), [2] * 10)


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mtard_tf.bin.data", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_answers_without_tensorflow() -> None:
    start = time.perf_counter()
    result = _command("--help")
    elapsed = time.perf_counter() - start
    assert "mtard-data import fashion_mnist --source=" in result.stdout
    # Importing TensorFlow alone takes longer, on any machine.
    assert elapsed < 3


def test_the_command_refuses_in_one_line(tmp_path: pathlib.Path) -> None:
    result = _command("import", "fashion_mnist", f"--source={tmp_path}", f"--data_dir={tmp_path}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"mtard-data: {tmp_path}/train-images-idx3-ubyte[.gz] is missing; --source is the folder "
        "with the four IDX files.\n"
    )
    # The same without a process, which takes seconds.
    assert command.run(requests.Data(data_dir=str(tmp_path)), ["list"]).startswith(
        f"Prepared in {tmp_path} "
    )
    with pytest.raises(ValueError) as caught:
        command.run(requests.Data(), ["import", "fashion_mnist"])
    assert str(caught.value) == (
        "say `list`, `import images --source=DIR --out=NAME`, `import NAME --source=DIR`, "
        "`convert NAME --out=DIR`, or `make-mini --source=DIR --out=DIR`; --help says more."
    )
