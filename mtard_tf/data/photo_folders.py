"""Which images of a folder belong to which class and split; no image is opened here.

photos/cat/1.jpg, photos/dog/2.png             one folder per class, divided by `splits`
photos/train/cat/1.jpg, photos/test/dog/2.png  divided already; a validation folder is optional
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from mtard_tf.data.image_data import DataError

DEFAULT_SPLITS = "80/10/10"
ROLES = ("train", "validation", "test")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_SPLIT_FOLDERS = {role: role for role in ROLES} | {"val": "validation", "valid": "validation"}
_MAX_NAMED = 10
_Below = pathlib.PurePosixPath  # a path from the source on
_TOP = _Below(".")


@dataclasses.dataclass(frozen=True)
class Photo:
    """An image file.

    Attributes:
      path: where it lies.
      name: its path below the source, with "/".
      label: id of its class.
    """

    path: pathlib.Path
    name: str
    label: int


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of a source folder.

    Attributes:
      source: the folder.
      label_names: names of the class folders, sorted; an id is a place in them.
      photos: by split ("validation" may be absent), in an order that depends on their names alone
        and mixes the classes: the first images of a split are a sample of it.
      shares: the percentages of the splits; None for a source that is divided already.
      skipped: how many entries were left out, by kind.
    """

    source: pathlib.Path
    label_names: tuple[str, ...]
    photos: Mapping[str, tuple[Photo, ...]]
    shares: tuple[int, ...] | None
    skipped: collections.Counter[str]


def list_photos(source: str | os.PathLike[str], splits: str | None = None) -> Listing:
    """The images below `source`.

    Args:
      source: a folder with one folder per class, or with the folders train, test and optionally
        validation (or val, valid) above these; without a test folder, validation is the test split.
      splits: percentages of train, validation and test. Each class is divided so, with at least one
        image in each split, by the SHA-256 of the images' names. None means 80/10/10, or the
        source's own splits; it must be None where it has them.

    Raises:
      DataError: no folder, no images, one class, too few images of one, or wrong `splits`.
    """
    root = pathlib.Path(os.path.expanduser(source))
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give one that has a folder of images per class.")
    shares = parse_splits(DEFAULT_SPLITS if splits is None else splits)
    images, folders, skipped = _walk(root)
    above = _split_folders(root, _within(folders, _TOP))
    if above and splits is not None:
        raise DataError(f"{root} is divided into {', '.join(above)} already; leave splits out.")
    tops = [_Below(name) for name in above.values()] or [_TOP]
    names = _class_names(root, {str(top): _within(folders, top) for top in tops})
    labels = {top / name: label for top in tops for label, name in enumerate(names)}
    by_class: dict[_Below, list[Photo]] = {folder: [] for folder in labels}
    for image in images:
        folder = _Below(*image.parts[: 2 if above else 1])
        if folder in labels:
            by_class[folder].append(Photo(root / image, str(image), labels[folder]))
        else:
            skipped["images outside the class folders"] += 1
    _check_sizes(root, by_class, 1 if above else len(ROLES), skipped)
    photos = _by_split(dict(zip(above, tops, strict=False)), by_class, shares)
    return Listing(root, tuple(names), photos, None if above else shares, skipped)


def parse_splits(text: str) -> tuple[int, ...]:
    """ "80/10/10" as whole percentages of train, validation and test.

    Raises:
      DataError: not three of at least 1 that sum to 100.
    """
    shares: tuple[int, ...] = (0,)
    if isinstance(text, str) and re.fullmatch(r"\d+/\d+/\d+", text):
        shares = tuple(map(int, text.split("/")))
    if min(shares) < 1 or sum(shares) != 100:
        raise DataError(
            f"splits is {text!r}; give whole percentages of train, validation and test, each at "
            f"least 1, that sum to 100, as {DEFAULT_SPLITS}."
        )
    return shares


def few(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _walk(
    root: pathlib.Path,
) -> tuple[list[_Below], list[_Below], collections.Counter[str]]:
    """Images and folders below `root`, and counts of the rest."""
    images, folders = [], []
    skipped: collections.Counter[str] = collections.Counter()
    for parent, below, files in os.walk(root, followlinks=True):
        place = pathlib.Path(parent)
        here = _Below(place.relative_to(root).as_posix())
        entered = []
        for name in sorted(below + files):
            if name.startswith(".") or name == "__MACOSX":
                skipped["hidden"] += 1
            elif name in below and place.resolve().is_relative_to((place / name).resolve()):
                skipped["links to a folder above"] += 1
            elif name in below:
                entered.append(name)
            elif name.lower().endswith(_SUFFIXES):
                images.append(here / name)
            else:
                skipped[pathlib.PurePath(name).suffix.lower() or "without a suffix"] += 1
        below[:] = entered
        folders += [here / name for name in entered]
    return images, folders, skipped


def _within(folders: Iterable[_Below], parent: _Below) -> list[str]:
    return sorted(folder.name for folder in folders if folder.parent == parent)


def _split_folders(root: pathlib.Path, names: list[str]) -> dict[str, str]:
    """Split -> its folder's name; empty if the folders of `root` are classes."""
    found = [name for name in names if name.lower() in _SPLIT_FOLDERS]
    if not found or (len(found) == 1 and len(names) > 1):
        return {}  # a class may be called "train"
    others = [name for name in names if name not in found]
    if others:
        raise DataError(
            f"{root} has {few(others)} beside {few(found)}; give a folder that has either splits "
            "or classes."
        )
    by_role = {_SPLIT_FOLDERS[name.lower()]: name for name in found}
    if "train" not in by_role or len(by_role) == 1 or len(by_role) < len(found):
        raise DataError(
            f"{root} is divided into {few(found)}; give train and test, with or without "
            "validation, or a folder of classes."
        )
    return {role: by_role[role] for role in ROLES if role in by_role}


def _class_names(root: pathlib.Path, by_split: Mapping[str, list[str]]) -> list[str]:
    """The names of the class folders, which every split must have."""
    train, *_ = by_split.values()
    for split, names in by_split.items():
        lacks, extra = sorted({*train} - {*names}), sorted({*names} - {*train})
        if lacks or extra:
            parts = [f"{split} lacks {few(lacks)}"] if lacks else []
            parts += [f"train lacks {few(extra)}, which {split} has"] if extra else []
            raise DataError(
                f"{root}: {', and '.join(parts)}; every split needs a folder of every class."
            )
    for name in train:
        if name != name.strip() or not name.isprintable():
            raise DataError(
                f"{root} has a class folder {name!r}; give it a name of printable characters."
            )
    if len(train) == 1:
        raise DataError(f"{root} has one class, {train[0]}; two or more are needed, a folder each.")
    return train


def _check_sizes(
    root: pathlib.Path,
    by_class: Mapping[_Below, list[Photo]],
    least: int,
    skipped: Mapping[str, int],
) -> None:
    if not any(by_class.values()):
        loose = skipped["images outside the class folders"]
        found = f"{loose:,} images, but none in a folder of its class" if loose else "no images"
        raise DataError(
            f"{root} has {found}; give a folder with a folder of PNG, JPEG, WebP, BMP or GIF files "
            "per class."
        )
    small = [f"{folder} ({len(p)})" for folder, p in by_class.items() if len(p) < least]
    if small:
        raise DataError(
            f"{root} has too few images in {few(small)}; every class needs one in each split, so "
            f"{least} or more here: add some, or remove the class."
        )


def _by_split(
    above: Mapping[str, _Below],
    by_class: Mapping[_Below, list[Photo]],
    shares: Sequence[int],
) -> dict[str, tuple[Photo, ...]]:
    if not above:
        divided = [_divide(_ordered([group]), shares) for group in by_class.values()]
        return {role: _ordered(parts[role] for parts in divided) for role in ROLES}
    photos = {
        role: _ordered(group for folder, group in by_class.items() if folder.parent == top)
        for role, top in above.items()
    }
    if "test" not in photos:
        photos["test"] = photos.pop("validation")
    return photos


def _ordered(groups: Iterable[Iterable[Photo]]) -> tuple[Photo, ...]:
    def key(photo: Photo) -> tuple[bytes, str]:
        # macOS may spell a name otherwise than it was written.
        name = unicodedata.normalize("NFC", photo.name)
        return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest(), name

    return tuple(sorted((photo for group in groups for photo in group), key=key))


def _divide(photos: tuple[Photo, ...], shares: Sequence[int]) -> dict[str, tuple[Photo, ...]]:
    """One class by split: shares of validation and test are rounded, each gets one at least."""
    count = len(photos)
    validation, test = ((count * share + 50) // 100 for share in shares[1:])
    test = min(max(1, test), count - 2)
    validation = min(max(1, validation), count - test - 1)
    stops = (0, count - test - validation, count - test, count)
    return {r: photos[a:b] for r, (a, b) in zip(ROLES, itertools.pairwise(stops), strict=True)}
