"""Reads IDX files (the format of MNIST and Fashion-MNIST), plain or gzipped."""

from __future__ import annotations

import gzip
import hashlib
import math
import pathlib
import zlib
from typing import IO

import numpy as np

from mtard_tf.data.image_data import DataError

_UNSIGNED_BYTE = 0x08
_PIECE = 1 << 20


def read_idx(path: pathlib.Path, *, dimensions: int) -> tuple[np.ndarray, str]:
    """The array in an IDX file and the SHA-256 of the file's uncompressed content.

    Layout: bytes 0, 0, 0x08 (unsigned byte), number of dimensions; each size as big-endian
    uint32; the values, last dimension fastest.

    Args:
      path: the file; gzipped if its name ends in .gz.
      dimensions: number of axes that the array must have (3 for images, 1 for labels).

    Returns:
      (uint8 array, hexadecimal digest).

    Raises:
      DataError: unreadable, truncated, or not an IDX file of that kind.
    """
    header = 4 + 4 * dimensions
    try:
        with _opened(path) as file:
            content = file.read(header)
            if len(content) < header or content[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
                raise DataError(
                    f"{path} begins with {content[:4].hex(' ')}; an IDX file of bytes with "
                    f"{dimensions} dimension(s) begins with 00 00 08 {dimensions:02x}: fetch the "
                    "file again."
                )
            shape = tuple(map(int, np.frombuffer(content, ">u4", dimensions, offset=4)))
            expected = header + math.prod(shape)
            content += _at_most(file, expected + 1 - header)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch the file again.") from error
    if len(content) != expected:
        held = f"{len(content)} bytes" if len(content) < expected else "more bytes than that"
        raise DataError(
            f"{path} holds {held}, its header announces {expected}; fetch the file again."
        )
    values = np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    return values, hashlib.sha256(content).hexdigest()


def _opened(path: pathlib.Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _at_most(file: IO[bytes], count: int) -> bytes:
    """At most `count` bytes, read in pieces: the header may promise, or gzip hold, far more."""
    pieces: list[bytes] = []
    while count > 0 and (piece := file.read(min(count, _PIECE))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
