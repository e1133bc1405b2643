"""Writes what `torch.save` writes, without torch: the zip archive and the form of before 1.6.

Opcode by opcode, so that a test can write what PyTorch would not. Where torch is installed,
`import_files_test.py` lets it read these files.
"""

from __future__ import annotations

import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

_STORAGES = {"float32": "Float", "float64": "Double", "float16": "Half", "int64": "Long"}


class Raw(bytes):
    """Opcodes that stand for a value."""


def call(module: str, name: str, *args: Any) -> Raw:
    """The opcodes of a call."""
    writer = _Writer(legacy=False)
    return Raw(writer.name(module, name) + writer.tuple(args) + pickle.REDUCE)


class _Writer:
    """Opcodes of protocol 2, and the storages that they refer to."""

    def __init__(self, legacy: bool) -> None:
        self.storages: dict[str, np.ndarray] = {}
        self._legacy = legacy

    def value(self, value: Any) -> bytes:
        """The opcodes that leave a value on the stack."""
        if isinstance(value, Raw):
            return bytes(value)
        if isinstance(value, np.ndarray):
            return self._tensor(value)
        if isinstance(value, dict):
            items = b"".join(self.value(k) + self.value(v) for k, v in value.items())
            empty = self.name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
            return empty + pickle.MARK + items + pickle.SETITEMS
        if isinstance(value, (tuple, list)):
            return self.tuple(value)
        # Of a plain value, the opcodes between PROTO with its number and STOP.
        return pickle.dumps(value, 2)[2:-1]

    def name(self, module: str, name: str) -> bytes:
        """The opcode that looks a name up."""
        return pickle.GLOBAL + f"{module}\n{name}\n".encode()

    def tuple(self, values: Any) -> bytes:
        """A tuple of values."""
        return pickle.MARK + b"".join(map(self.value, values)) + pickle.TUPLE

    def _tensor(self, array: np.ndarray) -> bytes:
        key = str(len(self.storages))
        self.storages[key] = array = np.ascontiguousarray(array)
        kind = Raw(self.name("torch", f"{_STORAGES[array.dtype.name]}Storage"))
        pid = ["storage", kind, key, "cuda:0", array.size]
        storage = Raw(self.tuple([*pid, None] if self._legacy else pid) + pickle.BINPERSID)
        stride = tuple(step // array.itemsize for step in array.strides)
        hooks = Raw(self.value({}))
        args = (storage, 0, array.shape, stride, False, hooks)
        return self.name("torch._utils", "_rebuild_tensor_v2") + self.tuple(args) + pickle.REDUCE


def _pickled(opcodes: bytes) -> bytes:
    return pickle.PROTO + b"\x02" + opcodes + pickle.STOP


def write_zip(
    path: pathlib.Path, value: Any, edit: Callable[[bytes], bytes] = lambda data: data
) -> pathlib.Path:
    """As PyTorch 1.6 and later; `edit` changes the pickle."""
    writer = _Writer(legacy=False)
    data = edit(_pickled(writer.value(value)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, array in writer.storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path: pathlib.Path, value: Any) -> pathlib.Path:
    """As PyTorch before 1.6."""
    writer = _Writer(legacy=True)
    body = _pickled(writer.value(value))
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    with path.open("wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, machine):
            file.write(pickle.dumps(head, 2))
        file.write(body)
        file.write(pickle.dumps(list(writer.storages), 2))
        for array in writer.storages.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())
    return path
