"""Pickles of weights, read without running anything that they name.

A pickle is a program: it names functions to call. Here a name is looked up in a table of inert
stand-ins that only describe tensors, and a name that is not in it stops the reading. The classes of
PyTorch, NumPy and Haiku themselves are never imported, so no file can reach them.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from mtard_tf.importing.tensors import (
    BFLOAT16,
    CheckpointError,
    Sealed,
    Tensor,
    damaged,
    strided,
)

_DTYPES = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": BFLOAT16,
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
_DAMAGE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    UnicodeDecodeError,
    ValueError,
    struct.error,
)


class Storage(Sealed):
    """A run of numbers somewhere in the file.

    Args:
      read: the numbers, given the dtype's name: `[numbers]`.
      dtype: that of the storage's type; None if the tensor says it.
    """

    __slots__ = ("dtype", "read")

    def __init__(self, read: Callable[[str], np.ndarray], dtype: str | None) -> None:
        self.read = read
        self.dtype = dtype


class _Named(Sealed):
    """A name of the file that stands for a constant, such as a dtype or a storage's type."""

    __slots__ = ("dtype", "name")

    def __init__(self, name: str, dtype: str | None) -> None:
        self.name = name
        self.dtype = dtype


class _Callable(Sealed):
    """A function that a file may call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def storage_dtype(kind: Any) -> str | None:
    """The dtype of a storage's type, as a persistent id of PyTorch names it."""
    if not isinstance(kind, _Named):
        raise CheckpointError("A storage has no type; the file is damaged: fetch it again.")
    return kind.dtype


def load(
    file: BinaryIO,
    what: str,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """The next pickled value of a file.

    Args:
      file: opened in binary mode.
      what: its name, for messages.
      persistent_load: gives the `Storage` that a persistent id of PyTorch means.

    Raises:
      CheckpointError: a name outside the table, or damage. Nothing was run.
    """
    try:
        _check_memo(file)
        return _Unpickler(file, what, persistent_load).load()
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise damaged(what, error) from error


def _check_memo(file: BinaryIO) -> None:
    """Refuses, with ValueError, a place of the memo beyond what was ever kept.

    `pickle` makes room for all places up to it: five bytes of a file could ask for 32 GiB.
    """
    begin = file.tell()
    for count, (opcode, place, _) in enumerate(pickletools.genops(file)):
        keeps = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if keeps and not (isinstance(place, int) and 0 <= place <= count):
            raise ValueError(f"place {place} of the memo after {count} opcodes")
    file.seek(begin)


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: BinaryIO, what: str, persistent_load: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._what = what
        self._storage = persistent_load

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name of the file; the only place where a name gets a meaning."""
        full = f"{module}.{name}"
        if full in _ALLOWED:
            return _ALLOWED[full]
        whole = module == "__main__" or (module.startswith("torch.nn") or ".models" in module)
        advice = (
            "it holds a whole model: where its code is, save model.state_dict() instead"
            if whole
            else "where it can be trusted, save the weights alone: torch.save(state_dict)"
        )
        raise CheckpointError(
            f"{self._what} asks for {full}, which weights do not need; it was refused and nothing "
            f"was run. If the file is yours, {advice}."
        )

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a persistent id names."""
        if self._storage is None:
            raise CheckpointError(f"{self._what} refers to storages outside it; it is damaged.")
        return self._storage(pid)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    dtype = storage.dtype
    if dtype is None:  # _rebuild_tensor_v3 names it after requires_grad and the hooks
        dtype = rest[2].dtype
    if not isinstance(storage, Storage) or dtype is None:
        raise CheckpointError("A tensor has no storage; the file is damaged: fetch it again.")
    read, shape = storage.read, tuple(size)
    return Tensor(shape, lambda: strided(read(dtype), offset, shape, stride))


class _Mapping(dict):
    """Stands for an OrderedDict; the attributes that PyTorch gives one are of no use here."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """Stands for a NumPy array while its state is read; `value` is what it was."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, list):
            self.value = data
            return
        flat = np.frombuffer(data, dtype.numpy())
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Stands for a NumPy dtype of plain numbers."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str, *_: Any) -> None:
        self._code = code
        self._order = "="

    def __setstate__(self, state: Any) -> None:
        self._order = state[1]

    def numpy(self) -> np.dtype:
        """The dtype itself."""
        dtype = np.dtype(str(self._code))
        if dtype.kind not in "fiub":
            raise CheckpointError(f"An array holds {self._code}, not numbers; give weights alone.")
        return dtype.newbyteorder(">") if self._order == ">" else dtype


def _scalar(dtype: _Dtype, data: Any = b"") -> Any:
    return np.frombuffer(data, dtype.numpy())[0]


def _mapping(*args: Any) -> dict:
    """A plain dict for the kinds that hold weights; a default or an order is of no use here."""
    mapping = [arg for arg in args if isinstance(arg, (Mapping, list))]
    return dict(mapping[0]) if mapping else {}


def _table() -> dict[str, Any]:
    table: dict[str, Any] = {
        "collections.OrderedDict": _Callable(_Mapping),
        "collections.defaultdict": _Callable(_mapping),
        "builtins.dict": _Callable(_mapping),
        "builtins.set": _Callable(lambda items=(): list(items)),
        "_codecs.encode": _Callable(lambda text, _="latin1": text.encode("latin1")),
        "torch.Size": _Callable(lambda sizes=(): tuple(sizes)),
        "torch.device": _Callable(lambda *names: str(names)),
        "torch._utils._rebuild_tensor": _Callable(_rebuild_tensor),
        "torch._utils._rebuild_tensor_v2": _Callable(_rebuild_tensor),
        "torch._utils._rebuild_tensor_v3": _Callable(_rebuild_tensor),
        "torch._utils._rebuild_parameter": _Callable(lambda data, *_: data),
        "torch._utils._rebuild_parameter_with_state": _Callable(lambda data, *_: data),
        "torch.nn.parameter.Parameter": _Callable(lambda data, *_: data),
        "torch.storage.UntypedStorage": _Named("UntypedStorage", None),
        "numpy.ndarray": _Named("ndarray", None),
        "numpy.dtype": _Callable(_Dtype),
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[f"{core}._reconstruct"] = _Callable(_Array)
        table[f"{core}.scalar"] = _Callable(_scalar)
    for haiku in ("haiku._src.data_structures.FlatMapping", "haiku._src.data_structures.FlatMap"):
        table[haiku] = _Callable(_mapping)
    for kind, dtype in _DTYPES.items():
        named = _Named(f"{kind}Storage", dtype)
        table[f"torch.{kind}Storage"] = table[f"torch.cuda.{kind}Storage"] = named
        table[f"torch.{dtype}"] = _Named(dtype, dtype)
    return table


_ALLOWED = _table()
