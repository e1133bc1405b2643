"""Converts the IDX files of Fashion-MNIST or MNIST to TFDS format, for use without a network."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from mtard_tf.data import catalogue, writing
from mtard_tf.data import tiny_imagenet_folders as tiny
from mtard_tf.data.idx import read_idx
from mtard_tf.data.image_data import DataError, Split

_PREFIXES = {"train": "train", "test": "t10k"}
MINI_SIZES = {"train": 6_000, "test": 1_000}


@dataclasses.dataclass(frozen=True)
class IdxSource:
    """A set of four IDX files, `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`.

    Attributes:
      name: its name in TFDS.
      version: of TFDS' own builder, so that `tfds.load` finds the set.
      label_names: one per class.
      homepage: of the set.
      sizes: examples by split.
      image_size: (height, width).
      digests: file name without .gz -> SHA-256 of the uncompressed file; of files that are not
        listed only the counts are checked.
    """

    name: str
    version: str
    label_names: tuple[str, ...]
    homepage: str
    sizes: Mapping[str, int]
    image_size: tuple[int, int]
    digests: Mapping[str, str]

    @property
    def assurance(self) -> str:
        """What an import has checked, for messages."""
        if self.digests:
            return "counts and SHA-256 of the contents are right"
        return "counts are right; no SHA-256 of the contents is known to check"


_FASHION_LABELS = (
    "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
)
_MNIST_SIZES = {"train": 60_000, "test": 10_000}
SOURCES = {
    "fashion_mnist": IdxSource(
        name="fashion_mnist",
        version="3.0.1",
        label_names=tuple(_FASHION_LABELS),
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        sizes=_MNIST_SIZES,
        image_size=(28, 28),
        digests={
            "train-images-idx3-ubyte": (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
            ),
            "train-labels-idx1-ubyte": (
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
            ),
            "t10k-images-idx3-ubyte": (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            "t10k-labels-idx1-ubyte": (
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
            ),
        },
    ),
    "mnist": IdxSource(
        name="mnist",
        version="3.0.1",
        label_names=tuple("0123456789"),
        homepage="http://yann.lecun.com/exdb/mnist/",
        sizes=_MNIST_SIZES,
        image_size=(28, 28),
        digests={},
    ),
}


def import_named(
    name: str,
    source_dir: str,
    data_dir: str | None = None,
    *,
    progress: writing.Progress = lambda places, _: places,
) -> str:
    """Imports the set of that name and returns a line about it; arguments as in `import_idx`.

    Raises:
      DataError: an unknown name, or as in `import_idx`.
    """
    if name == tiny.NAME:
        path = tiny.import_tiny_imagenet(source_dir, data_dir, progress=progress)
        return f"{name} is in {path} (counts of classes and images are right)."
    source = named_source(name)
    path = import_idx(source, source_dir, data_dir, progress=progress)
    return f"{name} is in {path} ({source.assurance})."


def named_source(name: str) -> IdxSource:
    """The IDX source of that name.

    Raises:
      DataError: an unknown name.
    """
    if name not in SOURCES:
        known = ", ".join([*SOURCES, tiny.NAME])
        raise DataError(f"{name!r} cannot be imported; use one of {known}.")
    return SOURCES[name]


def import_idx(
    source: IdxSource,
    source_dir: str,
    data_dir: str | None = None,
    *,
    progress: writing.Progress = lambda places, _: places,
) -> pathlib.Path:
    """Writes the set under `data_dir` in TFDS format and returns the folder.

    Args:
      source: which set.
      source_dir: the folder with its four IDX files, gzipped or not.
      data_dir: None means TFDS' default ($TFDS_DATA_DIR, or ~/tensorflow_datasets).
      progress: wraps the indices of each split.

    Raises:
      DataError: a file is missing, damaged or not the expected one, or the target exists or cannot
        be written.
    """
    root = pathlib.Path(os.path.expanduser(data_dir or catalogue.default_data_dir()))
    target = root / source.name / source.version
    writing.write_tfds(
        target,
        source.name,
        read_splits(source, source_dir),
        label_names=source.label_names,
        description=f"{source.name}, from its IDX files.",
        homepage=source.homepage,
        progress=progress,
    )
    return target


def make_fashion_mini(
    source_dir: str,
    out: str,
    *,
    progress: writing.Progress = lambda places, _: places,
) -> pathlib.Path:
    """Writes the embedded set to `out`: the first images of each class of Fashion-MNIST, in order.

    Arguments and errors as in `import_idx`; `out` is the version's folder, which must not exist.
    """
    source = SOURCES["fashion_mnist"]
    classes = len(source.label_names)
    splits = {
        role: first_per_class(split, MINI_SIZES[role] // classes)
        for role, split in read_splits(source, source_dir).items()
    }
    writing.write_tfds(
        out,
        "fashion_mini",
        splits,
        label_names=source.label_names,
        description="The first images of each class of Fashion-MNIST: 6,000 train, 1,000 test.",
        homepage=source.homepage,
        progress=progress,
    )
    return pathlib.Path(out)


def first_per_class(split: Split, count: int) -> Split:
    """The first `count` examples of every class, in the order of `split`."""
    places = [np.flatnonzero(split.labels == label)[:count] for label in np.unique(split.labels)]
    return split.take(np.sort(np.concatenate(places)))


def read_splits(source: IdxSource, source_dir: str) -> dict[str, Split]:
    """The splits in the IDX files of `source_dir`, checked; arguments as in `import_idx`."""
    splits = {}
    for role, prefix in _PREFIXES.items():
        images = _read_checked(source, source_dir, f"{prefix}-images-idx3-ubyte", 3)
        labels = _read_checked(source, source_dir, f"{prefix}-labels-idx1-ubyte", 1)
        wanted = (source.sizes[role], *source.image_size)
        if images.shape != wanted or labels.shape != wanted[:1]:
            raise DataError(
                f"{source_dir} has {role} images {images.shape} and labels {labels.shape}; "
                f"{source.name} has {wanted} and {wanted[:1]}: fetch the files again."
            )
        if labels.max() >= len(source.label_names):
            raise DataError(
                f"{source_dir} has the {role} label {labels.max()}; {source.name} has "
                f"{len(source.label_names)} classes: fetch the files again."
            )
        splits[role] = Split(images[..., None], labels.astype(np.int32))
    return splits


def _read_checked(source: IdxSource, source_dir: str, name: str, dimensions: int) -> np.ndarray:
    candidates = [pathlib.Path(os.path.expanduser(source_dir), name + end) for end in ("", ".gz")]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DataError(
            f"{candidates[0]}[.gz] is missing; --source is the folder with the four IDX files."
        )
    values, digest = read_idx(path, dimensions=dimensions)
    expected = source.digests.get(name)
    if expected and digest != expected:
        raise DataError(
            f"{path} is not {source.name}'s: its content has SHA-256 {digest}, expected "
            f"{expected}; fetch the file again."
        )
    return values
