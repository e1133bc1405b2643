"""Inert substitutes for the names that pickles of weights use: they only describe tensors.

The classes of PyTorch, NumPy and Haiku are never imported, so no file can reach them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mtard_tf.importing.tensors import Sealed, Tensor, WeightsFileError, strided

_DTYPES = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}


class Storage(Sealed):
    """A flat array of numbers in the file, which tensors are views of.

    Args:
      read: dtype's name -> the values, `[numbers]`.
      dtype: of the values; None for an untyped storage, whose tensors name it.
    """

    __slots__ = ("dtype", "read")

    def __init__(self, read: Callable[[str], np.ndarray], dtype: str | None) -> None:
        self.read = read
        self.dtype = dtype


class _Named(Sealed):
    """A constant that a file names, such as a dtype or the type of a storage."""

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
    """The dtype of a storage of this type, from a persistent id; None for an untyped one."""
    if not isinstance(kind, _Named):
        raise WeightsFileError("A storage has no type; the file is damaged: fetch it again.")
    return kind.dtype


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    dtype = storage.dtype
    if dtype is None:  # _rebuild_tensor_v3 gives it after requires_grad and the hooks
        dtype = rest[2].dtype
    if not isinstance(storage, Storage) or dtype is None:
        raise WeightsFileError("A tensor has no storage; the file is damaged: fetch it again.")
    read, shape = storage.read, tuple(size)
    return Tensor(shape, lambda: strided(read(dtype), offset, shape, stride))


class _Mapping(dict):
    """In place of OrderedDict; attributes that PyTorch sets on one are ignored."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """In place of a NumPy array; `value` is the array, once its state has been read."""

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
    """In place of a NumPy dtype of numbers."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str, *_: Any) -> None:
        self._code = code
        self._order = "="

    def __setstate__(self, state: Any) -> None:
        self._order = state[1]

    def numpy(self) -> np.dtype:
        """The NumPy dtype.

        Raises:
          WeightsFileError: not a dtype of numbers.
        """
        dtype = np.dtype(str(self._code))
        if dtype.kind not in "fiub":
            raise WeightsFileError(f"An array holds {self._code}, not numbers; give weights alone.")
        return dtype.newbyteorder(">") if self._order == ">" else dtype


def _scalar(dtype: _Dtype, data: Any = b"") -> Any:
    return np.frombuffer(data, dtype.numpy())[0]


def _mapping(*args: Any) -> dict:
    """A dict in place of other mappings; a default factory is ignored."""
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


ALLOWED = _table()
