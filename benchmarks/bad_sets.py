"""Damaged and hostile data sets, IDX files and folders of TFDS, for `bad_inputs.py`."""

from __future__ import annotations

import gzip
import json
import pathlib
import shutil
import struct
from collections.abc import Callable

from forked_commands import MARKER, BadInput
from small_run import ROOT

Make = Callable[[pathlib.Path], object]
_EMBEDDED = ROOT / "mtard_tf" / "data" / "fashion_mini" / "1.0.0"
_SHARD = "fashion_mini-train.tfrecord-00000-of-00001"


def idx(kind: int, *sizes: int, data: bytes = b"") -> bytes:
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, kind, len(sizes), *sizes) + data


def idx_files(**changed: bytes) -> Make:
    """MNIST's four files, black and of one class, some of them replaced; "gz" names one.gz."""

    def make(folder: pathlib.Path) -> None:
        (folder / "idx").mkdir()
        for prefix, count in (("train", 60_000), ("t10k", 10_000)):
            files = {
                f"{prefix}_images": idx(8, count, 28, 28, data=bytes(count * 784)),
                f"{prefix}_labels": idx(8, count, data=bytes(count)),
            }
            for name, content in (files | changed).items():
                if name.removesuffix("_gz") in files:
                    plain = f"{prefix}-{name[len(prefix) + 1 :][:6]}-idx{3 if 'im' in name else 1}-ubyte"
                    (folder / "idx" / plain).unlink(missing_ok=True)
                    end = ".gz" if name.endswith("_gz") else ""
                    (folder / "idx" / (plain + end)).write_bytes(content)

    return make


def prepared(change: Callable[[pathlib.Path], object]) -> Make:
    """The embedded set as a prepared one, with something about its folder changed."""

    def make(folder: pathlib.Path) -> None:
        copy = folder / "sets" / "mine" / "1.0.0"
        shutil.copytree(_EMBEDDED, copy)
        change(copy)

    return make


def described(change: Callable[[dict], object], name: str = "dataset_info.json") -> Make:
    def edit(folder: pathlib.Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return prepared(edit)


def features(change: Callable[[dict], object]) -> Make:
    return described(lambda value: change(value["featuresDict"]["features"]), "features.json")


def _imports(folder: pathlib.Path) -> None:
    """A feature whose class is in a module beside: TFDS would import it."""
    (folder.parents[2] / "stranger.py").write_text(f"open({MARKER!r}, 'w').close()\n")
    text = (folder / "features.json").read_text()
    name = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
    (folder / "features.json").write_text(text.replace(name, "stranger.ClassLabel"))


def _shard(change: Callable[[bytes], bytes]) -> Make:
    def edit(folder: pathlib.Path) -> None:
        (folder / _SHARD).write_bytes(change((folder / _SHARD).read_bytes()))

    return prepared(edit)


def _tiny(folder: pathlib.Path) -> None:
    (folder / "tiny" / "train" / "n01").mkdir(parents=True)
    (folder / "tiny" / "val").mkdir()


def _annotated(text: bytes) -> Make:
    def make(folder: pathlib.Path) -> None:
        _tiny(folder)
        (folder / "tiny" / "val" / "val_annotations.txt").write_bytes(text)

    return make


def _idx(name: str, make: Make, says: str = "") -> BadInput:
    flags = ("import", "mnist", "--source=idx", "--data_dir=sets")
    return BadInput(f"IDX: {name}", "data", flags, make, says=says)


def _tfds(name: str, make: Make, says: str = "", *more: str) -> BadInput:
    flags = ("--model=net.keras", "--dataset=mine", "--data_dir=sets", "--epsilon=0.1", "--out=out")
    return BadInput(f"TFDS: {name}", "eval", (*flags, *more), make, says=says)


def _data(name: str, *flags: str, make: Make = lambda folder: None, says: str = "") -> BadInput:
    return BadInput(name, "data", flags, make, says=says)


def _lengths(number: str) -> Make:
    return described(lambda value: value["splits"][0].update({"shardLengths": [number]}))


_TINY = ("import", "tiny_imagenet", "--source=tiny", "--data_dir=sets")
_BOMB = gzip.compress(bytes(1 << 26))

INPUTS = (
    _idx("another magic number", idx_files(train_images=idx(13, 60_000, 28, 28)), "begins with"),
    _idx("labels for images", idx_files(train_images=idx(8, 60_000, data=bytes(60_000))), "begins with"),
    _idx("sizes that lie", idx_files(train_images=idx(8, 4_294_967_295, 28, 28)), "announces"),
    _idx("sizes whose product is beyond 2**64", idx_files(train_images=idx(8, *[4_294_967_295] * 3)), "announces"),
    _idx("half the images", idx_files(train_images=idx(8, 30_000, 28, 28, data=bytes(30_000 * 784)))),
    _idx("cut off", idx_files(train_labels=idx(8, 60_000, data=bytes(59_999))), "announces"),
    _idx("empty", idx_files(t10k_labels=b""), "begins with"),
    _idx("a label of 10", idx_files(train_labels=idx(8, 60_000, data=bytes([10] * 60_000))), "label 10"),
    _idx("gzip cut off", idx_files(train_labels_gz=gzip.compress(idx(8, 60_000, data=bytes(60_000)))[:-9]),
         "cannot be read"),
    _idx("gzip that is none", idx_files(train_labels_gz=b"nothing"), "cannot be read"),
    _idx("gzip with a broken checksum",
         idx_files(train_labels_gz=gzip.compress(idx(8, 60_000, data=bytes(60_000)))[:-8] + b"\1" * 8), "cannot be read"),
    _idx("gzip of 17 GiB of zeros in 16 MiB",
         idx_files(train_labels_gz=gzip.compress(idx(8, 60_000)) + _BOMB * 256), ""),
    _idx("no files", lambda f: (f / "idx").mkdir(), "missing"),
    _data("data: a set that cannot be imported", "import", "../mnist", "--source=idx", says="cannot be imported"),
    _data("data: --data_dir is a file", *("import", "mnist", "--source=idx", "--data_dir=run.gin"), make=idx_files()),
    _data("data: no command", says="list"),
    _data("data: make-mini onto the run", *("make-mini", "--source=idx", "--out=run"), make=idx_files()),
    _data("tiny_imagenet: no annotations", *_TINY, make=_tiny, says="missing"),
    _data("tiny_imagenet: a class without a folder", *_TINY, make=_annotated(b"a.JPEG\tn99\n"), says="n99"),
    _data("tiny_imagenet: annotations that are no text", *_TINY, make=_annotated(b"\xff\xfe\x00")),
    _data("tiny_imagenet: too few images", *_TINY, make=_annotated(b"../../run.gin\tn01\n"), says="200"),
    _tfds("features.json names a stranger's module", prepared(_imports), "stranger"),
    _tfds("dataset_info.json cut off",
          prepared(lambda f: (f / "dataset_info.json").write_text('{"name": "mine", "splits": [')), "cannot read"),
    _tfds("dataset_info.json is a list", prepared(lambda f: (f / "dataset_info.json").write_text("[]")), "cannot read"),
    _tfds("dataset_info.json is not UTF-8",
          prepared(lambda f: (f / "dataset_info.json").write_bytes(b'{"name": "\xff"}')), "cannot read"),
    _tfds("no features.json", prepared(lambda f: (f / "features.json").unlink()), "cannot read"),
    _tfds("features.json is a list", prepared(lambda f: (f / "features.json").write_text("[]")), "cannot read"),
    _tfds("features.json of 100,000 brackets",
          prepared(lambda f: (f / "features.json").write_text("[" * 100_000)), "cannot read"),
    _tfds("no label", features(lambda value: value.pop("label"))),
    _tfds("images of any size",
          features(lambda v: v["image"]["image"]["shape"].update({"dimensions": ["-1", "28", "1"]})), "shape"),
    _tfds("images of 10**9 by 10**9",
          features(lambda v: v["image"]["image"]["shape"].update({"dimensions": ["1000000000", "1000000000", "1"]})),
          "GiB"),
    _tfds("images that are not of the size that is told",
          features(lambda v: v["image"]["image"]["shape"].update({"dimensions": ["8", "8", "1"]}))),
    _tfds("labels without names", prepared(lambda f: (f / "label.labels.txt").unlink())),
    _tfds("names of 3 labels of 10", prepared(lambda f: (f / "label.labels.txt").write_text("a\nb\nc\n"))),
    _tfds("names that are not UTF-8", prepared(lambda f: (f / "label.labels.txt").write_bytes(b"\xff\n" * 10))),
    _tfds("no training split", described(lambda value: value["splits"].pop(0)), "splits"),
    _tfds("--split that is none", prepared(lambda f: None), "split", "--split=../train"),
    _tfds("a shard is missing", prepared(lambda f: (f / _SHARD).unlink()), "cannot read"),
    _tfds("a shard cut off", _shard(lambda data: data[:1_000_000]), "cannot read"),
    _tfds("a shard with flipped bits", _shard(lambda d: d[:5_000] + bytes(b ^ 1 for b in d[5_000:5_100]) + d[5_100:]),
          "cannot read"),
    _tfds("a shard that is empty", _shard(lambda data: b"")),
    _tfds("fewer examples than the shard has", _lengths("10")),
    _tfds("more examples than the shard has", _lengths("6001")),
    _tfds("10**15 examples", _lengths("1000000000000000"), "GiB"),
    _tfds("-5 examples", _lengths("-5")),
    _tfds("shards in another folder", described(lambda value: value["splits"][0].update(
        {"filepathTemplate": "../../../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"})), "cannot read"),
    _tfds("a format that is none", described(lambda value: value.update({"fileFormat": "pickle"}))),
)  # fmt: skip
