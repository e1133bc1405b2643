"""Images that stay on disk, where `Split.images` would be an array of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mtard_tf.files import digest

_CHUNK_BYTES = 16 * 2**20


class StoredImages:
    """Images `[n, height, width, channels]`, uint8, of which none are in memory.

    A slice, a mask or integers select images without reading them; one integer reads one image,
    and `np.asarray` reads all that are selected.

    Args:
      read: images at integer positions `[m]` of the source, in that order.
      places: positions of these images in the source, integers `[n]`.
      image_shape: (height, width, channels).
      fingerprint: of the source's content.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        read: Callable[[np.ndarray], np.ndarray],
        places: np.ndarray,
        image_shape: tuple[int, int, int],
        fingerprint: str,
    ) -> None:
        self._read, self._places = read, places
        self._image_shape, self._fingerprint = image_shape, fingerprint

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels)."""
        return len(self._places), *self._image_shape

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int | np.integer):
            return self.read(np.array([key]))[0]
        return StoredImages(self._read, self._places[key], self._image_shape, self._fingerprint)

    def __iter__(self) -> Iterator[np.ndarray]:
        for chunk in self._chunks():
            yield from chunk

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = np.empty(self.shape, np.uint8)
        stop = 0
        for chunk in self._chunks():
            start, stop = stop, stop + len(chunk)
            found[start:stop] = chunk
        return found if dtype is None else found.astype(dtype, copy=False)

    def __repr__(self) -> str:
        # Fingerprints are made of it, see `mtard_tf.files.digest`.
        return f"StoredImages({self.shape}, {digest(self._fingerprint, self._places)})"

    def read(self, places: np.ndarray) -> np.ndarray:
        """The images at `places`, integers `[m]`, in that order."""
        return self._read(self._places[places])

    def shares(self, others: Any) -> bool:
        """Whether an image of the same place of the same source is among `others`."""
        return (
            isinstance(others, StoredImages)
            and others._fingerprint == self._fingerprint
            and bool(np.isin(self._places, others._places).any())
        )

    def _chunks(self) -> Iterator[np.ndarray]:
        count = images_in(_CHUNK_BYTES, self._image_shape)
        for start in range(0, len(self), count):
            yield self._read(self._places[start : start + count])


def images_in(size: int, image_shape: tuple[int, ...]) -> int:
    """How many images take `size` bytes, at least 1."""
    return max(1, size // int(np.prod(image_shape)))


def joined(first: Any, second: Any) -> StoredImages:
    """The images of `first` and after them those of `second`, arrays or `StoredImages`."""

    def read(places: np.ndarray) -> np.ndarray:
        found = np.empty((len(places), *first.shape[1:]), np.uint8)
        own = places < len(first)
        found[own] = first[places[own]]
        found[~own] = second[places[~own] - len(first)]
        return found

    places = np.arange(len(first) + len(second))
    return StoredImages(read, places, first.shape[1:], "joined")
