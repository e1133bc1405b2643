"""Image files to pixels of one size, and what is wrong with them."""

from __future__ import annotations

import concurrent.futures
import hashlib
import pathlib
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mtard_tf.data.image_data import DataError
from mtard_tf.data.photo_folders import Listing, Photo, few
from mtard_tf.data.writing import Progress

BACKGROUND = "white"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_MODES = {1: "L", 3: "RGB"}
_AT_A_TIME = 256  # decoded ahead: bounds the memory


def decode(path: pathlib.Path, size: int, channels: int) -> np.ndarray:
    """An image file as uint8 `[size, size, channels]`.

    Turned as its EXIF orientation says, of an animation the first frame; 16-bit grey is scaled to
    8 bits (v / 257, rounded; Pillow takes the upper bytes of 16-bit colours); transparency is laid
    over white; CMYK becomes RGB without a profile; the middle square is cut out and resized
    (bicubic, with antialiasing). An image that is `size` x `size` keeps its values.

    Args:
      path: a PNG, JPEG, WebP, BMP or GIF file, whatever its name.
      size: height and width of the result.
      channels: 3 (grey images are repeated), or 1 (the luma of coloured ones, ITU-R 601-2).

    Raises:
      Exception: whatever Pillow meets in a broken file.
    """
    with Image.open(path, formats=_FORMATS) as file:
        image = _eight_bits(ImageOps.exif_transpose(file))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    image = image.convert("RGB").convert(_MODES[channels])
    image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    # Pillow's own conversion cuts or clips.
    values = (np.asarray(image).astype(np.int64) + 128) // 257
    return Image.fromarray(values.astype(np.uint8))


class Reader:
    """Reads the photos of a folder, and notes what is wrong with them.

    Args:
      listing: the folder's photos.
      size: height and width.
      channels: 3 or 1.

    Attributes:
      counts: how many were read, by (split, label).
      broken: why a photo could not be read, by its name.

    Raises:
      DataError: a size below 1, or other channels.
    """

    def __init__(self, listing: Listing, size: int, channels: int) -> None:
        if not isinstance(size, int) or size < 1:
            raise DataError(f"size is {size!r}; give an integer >= 1, the height and width.")
        if channels not in _MODES:
            raise DataError(f"channels is {channels!r}; give 3 (colour) or 1 (grey).")
        self.image_shape = size, size, channels
        self.counts: Counter[tuple[str, int]] = Counter()
        self.broken: dict[str, str] = {}
        self._listing = listing
        self._seen: dict[bytes, tuple[str, str]] = {}
        self._twice: list[str] = []

    def examples(
        self, role: str, progress: Progress = lambda places, _: places
    ) -> Iterator[tuple[np.ndarray, int]]:
        """(pixels, label) of the photos of a split that are not broken, in order.

        Args:
          role: the split.
          progress: wraps the places of its photos.
        """
        photos = self._listing.photos[role]
        with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor() as pool:
            warnings.simplefilter("ignore")  # of odd metadata; broken pixels are errors
            for place in progress(range(len(photos)), role):
                if place % _AT_A_TIME == 0:
                    some = photos[place : place + _AT_A_TIME]
                    decoded = pool.map(self._pixels_or_reason, some)
                photo, pixels = photos[place], next(decoded)
                if isinstance(pixels, str):
                    self.broken[photo.name] = pixels
                else:
                    self._note(role, photo, pixels)
                    yield pixels, photo.label

    def _pixels_or_reason(self, photo: Photo) -> np.ndarray | str:
        try:
            return decode(photo.path, self.image_shape[0], self.image_shape[2])
        except UnidentifiedImageError:
            return f"not {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        except Exception as error:  # whatever Pillow meets in a broken file
            return (str(error) or type(error).__name__).splitlines()[0]

    def _note(self, role: str, photo: Photo, pixels: np.ndarray) -> None:
        self.counts[role, photo.label] += 1
        digest = hashlib.sha256(pixels.tobytes()).digest()
        first_role, first_name = self._seen.setdefault(digest, (role, photo.name))
        if first_role != role:
            self._twice.append(f"{first_name} ({first_role}) and {photo.name} ({role})")

    def check(self, skip_broken: bool) -> None:
        """Refuses the folder, with DataError, if something is wrong with what was read.

        Args:
          skip_broken: whether broken files may be left out.
        """
        source = self._listing.source
        if self.broken and not skip_broken:
            listed = [f"{name} ({reason})" for name, reason in sorted(self.broken.items())]
            raise DataError(
                f"{source} has broken files ({len(listed):,}): {few(listed)}; repair or remove "
                "them, or leave them out with skip_broken."
            )
        if self._twice:
            raise DataError(
                f"{source} has the same image in two splits ({len(self._twice):,}): "
                f"{few(self._twice)}; remove one of each."
            )
        names = enumerate(self._listing.label_names)
        wanted = [(r, label, name) for label, name in names for r in self._listing.photos]
        empty = [f"{name} ({r})" for r, label, name in wanted if not self.counts[r, label]]
        if empty:
            raise DataError(
                f"{source} has only broken files of {few(empty)}; every class needs an image in "
                "each split."
            )
