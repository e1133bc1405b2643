"""Turns a folder of image files into a TFDS set in ArrayRecord: whole or not at all."""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

from mtard_tf.data import catalogue, writing
from mtard_tf.data.image_data import DataError
from mtard_tf.data.image_folders import CHANNELS, SIZE
from mtard_tf.data.photo_folders import Listing, list_photos
from mtard_tf.data.photos import BACKGROUND, Reader

VERSION = "1.0.0"
_USE = "train on it with Experiment.dataset = @datasets.tfds and datasets.tfds.name = '{}'."
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def import_images(
    source: str | os.PathLike[str],
    name: str,
    data_dir: str | None = None,
    *,
    size: int = SIZE,
    splits: str | None = None,
    channels: int = CHANNELS,
    skip_broken: bool = False,
    progress: writing.Progress = lambda places, _: places,
) -> str:
    """Writes the images of a folder as a TFDS set, one at a time, and says what is in it.

    The same examples, in the same order, as `image_folder` reads.

    Args:
      source: the folder; see `image_folder`.
      name: of the set: lower-case letters, digits and _.
      data_dir: where prepared sets lie; None means TFDS' default ($TFDS_DATA_DIR, or
        ~/tensorflow_datasets).
      size: height and width.
      splits: percentages of train, validation and test; None means 80/10/10, or the source's own.
      channels: 3 or 1.
      skip_broken: leave out what cannot be decoded; otherwise it is refused.
      progress: wraps the places of each split.

    Raises:
      DataError: a name that is taken or none of TFDS', a set that is there already or cannot be
        written, or see `image_folder`.
    """
    root = os.path.expanduser(data_dir or catalogue.default_data_dir())
    target = pathlib.Path(root, _checked(name), VERSION)
    writing.check_absent(target, name)
    listing = list_photos(source, splits)
    reader = Reader(listing, size, channels)
    with writing.new_version(target, name) as partial:
        written = {
            role: writing.write_records(
                partial, name, role, reader.examples(role, progress), writing.ARRAY_RECORD
            )
            for role in listing.photos
        }
        reader.check(skip_broken)
        writing.write_metadata(
            partial,
            name,
            written,
            version=VERSION,
            image_shape=reader.image_shape,
            label_names=listing.label_names,
            description=_description(listing, size, channels),
            file_format=writing.ARRAY_RECORD,
        )
    return f"{_summary(listing, reader)}{name} is in {target}: {_USE.format(name)}"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise DataError(
            f"the set's name is {name!r}; give lower-case letters, digits and _, a letter first, "
            "and the folder of all sets with data_dir."
        )
    if name in catalogue.KNOWN:
        raise DataError(f"{name} is the name of another data set; give one of your own.")
    return name


def _description(listing: Listing, size: int, channels: int) -> str:
    colours = "RGB" if channels == 3 else "grey"
    shares = "/".join(map(str, listing.shares or ()))
    splits = f"{shares} of each class, by SHA-256 of the names" if shares else "the folder's own"
    return (
        "Image files, one folder per class. Each was turned by its EXIF orientation, 16 bits were "
        f"scaled to 8, transparency was laid over {BACKGROUND}, colours became {colours}, and its "
        f"middle square was resized to {size} x {size} (bicubic, antialiased). Splits: {splits}."
    )


def _summary(listing: Listing, reader: Reader) -> str:
    """How many images each class has in each split, and what was left out."""
    rows: list[list[Any]] = [
        [name, *(reader.counts[role, label] for role in listing.photos)]
        for label, name in enumerate(listing.label_names)
    ]
    totals = [sum(column) for column in list(zip(*rows, strict=True))[1:]]
    rows = [["", *listing.photos], *rows, ["all", *totals]]
    width = max(len(row[0]) for row in rows)
    lines = [
        f"{name:{width}}" + "".join(f"{cell:>12,}" if n else f"{cell:>12}" for cell in cells)
        for n, (name, *cells) in enumerate(rows)
    ]
    if listing.skipped:
        kinds = [f"{count:,} {kind}" for kind, count in sorted(listing.skipped.items())]
        lines.append(f"Skipped: {', '.join(kinds)}.")
    lines += [f"Broken: {name} ({reason})" for name, reason in sorted(reader.broken.items())]
    return "".join(f"{line}\n" for line in lines)
