"""PyTorch's two file formats: zip archives (1.6 and later), and a sequence of pickles before."""

from __future__ import annotations

import io
import math
import os
import pathlib
import pickle
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from mtard_tf.importing import pickles
from mtard_tf.importing.pickle_stand_ins import Storage, storage_dtype
from mtard_tf.importing.tensors import WeightsFileError, damaged, decode

# torch.serialization.MAGIC_NUMBER: the first pickle of the old format.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Descriptions of a thousand tensors take a tenth of a megabyte.
_LARGEST_PICKLE = 1 << 28
_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, ValueError)


def read_zip(path: pathlib.Path) -> Any:
    """The value that `torch.save` wrote; tensors are read on access.

    Raises:
      WeightsFileError: see `pickles.load`; or an archive that is damaged or not PyTorch's.
    """
    archive = _Archive(path)
    return pickles.load(io.BytesIO(archive.pickle()), path.name, archive.storage)


class _Archive:
    """The members of a zip archive, each read and checked (CRC) on its own."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._sizes = {info.filename: info.file_size for info in archive.infolist()}
        except _DAMAGE as error:
            raise damaged(path, error) from error
        roots = [name[: -len("data.pkl")] for name in self._sizes if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise WeightsFileError(
                f"{path} is a zip archive without one data.pkl; give a file that torch.save wrote."
            )
        self._root = roots[0]
        order = f"{self._root}byteorder"
        if order in self._sizes and self._bytes(order, 16).strip() == b"big":
            raise WeightsFileError(
                f"{path} was written on a big-endian machine; load and save it with PyTorch first."
            )

    def pickle(self) -> bytes:
        """The pickle that describes the tensors."""
        return self._bytes(f"{self._root}data.pkl", _LARGEST_PICKLE)

    def storage(self, pid: Any) -> Storage:
        """The storage of a persistent id `("storage", type, key, location, numbers)`."""
        kind, key, count = _described(pid, self._path)
        name = f"{self._root}data/{key}"
        # An untyped storage gives its size in bytes.
        size = count * (np.dtype(kind).itemsize if kind else 1)
        if self._sizes.get(name) != size:
            raise WeightsFileError(
                f"{self._path} is cut off or damaged: {name} has {self._sizes.get(name, 'no')} "
                f"bytes, not {size}; fetch it again."
            )
        return Storage(lambda dtype: decode(self._bytes(name, size), dtype), kind)

    def _bytes(self, name: str, limit: int) -> bytes:
        try:
            if self._sizes[name] > limit:
                raise zipfile.BadZipFile(f"{name} claims {self._sizes[name]} bytes")
            with zipfile.ZipFile(self._path) as archive, archive.open(name) as file:
                return file.read()
        except (*_DAMAGE, NotImplementedError, RuntimeError, zlib.error) as error:
            raise damaged(self._path, error) from error


def read_legacy(path: pathlib.Path) -> Any:
    """As `read_zip`, of a file that PyTorch before 1.6 wrote."""
    storages: dict[str, tuple[str | None, int]] = {}
    places: dict[str, int] = {}

    def storage(pid: Any) -> Storage:
        if len(pid) > 5 and pid[5] is not None:
            raise WeightsFileError(f"{path} has storages within storages; save it again.")
        kind, key, count = _described(pid[:5], path)
        if kind is None:
            raise WeightsFileError(f"{path} has a storage without a type; it is damaged.")
        storages[key] = kind, count

        def read(dtype: str) -> np.ndarray:
            with path.open("rb") as file:
                file.seek(places[key])
                return decode(file.read(count * np.dtype(dtype).itemsize), dtype)

        return Storage(read, kind)

    with path.open("rb") as file:
        for _ in range(3):  # magic number, protocol, properties of the machine
            pickles.load(file, path.name)
        value = pickles.load(file, path.name, storage)
        keys = pickles.load(file, path.name)
        end = os.path.getsize(path)
        if not isinstance(keys, (list, tuple)):
            raise damaged(path, f"{str(keys)[:40]!r} is no list of storages")
        for key in map(str, keys):
            kind, count = storages.get(key, (None, -1))
            head = file.read(8)
            place = file.tell()
            size = count * np.dtype(kind).itemsize if kind else -1
            # Each storage is stored as its number of elements, then the elements.
            if len(head) < 8 or struct.unpack("<q", head)[0] != count or place + size > end:
                raise WeightsFileError(
                    f"{path} is cut off or damaged: storage {key} should have {count} numbers at "
                    f"byte {place} of {end}; fetch it again."
                )
            places[key] = place
            file.seek(place + size)
    if missing := sorted(storages.keys() - places.keys()):
        raise WeightsFileError(f"{path} lacks the storage {missing[0]}; fetch it again.")
    return value


def is_legacy(path: pathlib.Path) -> bool:
    """Whether the file begins with the old format's magic number."""
    expected = pickle.dumps(LEGACY_MAGIC, 2)
    with path.open("rb") as file:
        return file.read(len(expected)) == expected


def _described(pid: Any, path: pathlib.Path) -> tuple[str | None, str, int]:
    """(dtype, key, number of elements) of a persistent id."""
    if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
        raise WeightsFileError(
            f"{path} refers to {str(pid)[:60]!r}, which is no storage; fetch it again."
        )
    _, kind, key, _, count = pid
    if type(count) is not int or not 0 <= count < math.inf:
        raise WeightsFileError(f"{path} has a storage of {count!r} numbers; fetch it again.")
    return storage_dtype(kind), str(key), count
