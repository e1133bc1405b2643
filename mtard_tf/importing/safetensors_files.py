"""safetensors: eight bytes of length, a JSON header, the numbers (huggingface/safetensors)."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import pathlib
import struct
from typing import Any

import numpy as np

from mtard_tf.importing.tensors import (
    BFLOAT16,
    CheckpointError,
    Tensor,
    damaged,
    decode,
    item_size,
)

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": BFLOAT16,
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
# The format's own limit on the header.
_LONGEST_HEADER = 100_000_000


def looks_like_one(path: pathlib.Path) -> bool:
    """Whether the file begins as the format does."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] > 1


def read(path: pathlib.Path) -> dict[str, Tensor]:
    """The tensors by name, not read yet.

    Raises:
      CheckpointError: cut off or damaged, or a dtype that is no weight's.
    """
    size = os.path.getsize(path)
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > min(size - 8, _LONGEST_HEADER):
            raise damaged(path, f"its header should have {length} bytes and the file has {size}")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_once)
        header.pop("__metadata__", None)
        tensors = {n: _tensor(path, 8 + length, size, **entry) for n, entry in header.items()}
        _check_apart(path, [entry["data_offsets"] for entry in header.values()])
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise damaged(path, error) from error
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the header; readers differ in which of two equal names they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {twice[:60]!r} twice")
    return found


def _check_apart(path: pathlib.Path, places: list[list[int]]) -> None:
    """Refuses tensors that share bytes, which the format forbids."""
    full = sorted((begin, end) for begin, end in places if end > begin)
    for (_, end), (begin, _) in itertools.pairwise(full):
        if begin < end:
            raise damaged(path, f"two tensors share byte {begin}")


def _tensor(
    path: pathlib.Path,
    base: int,
    size: int,
    *,
    dtype: str,
    shape: list[int],
    data_offsets: list[int],
) -> Tensor:
    if dtype not in _DTYPES:
        raise CheckpointError(
            f"{path} has a tensor of {dtype}; save its weights as one of {', '.join(_DTYPES)}."
        )
    begin, end = data_offsets
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        raise damaged(path, f"a tensor has the shape {shape} at {data_offsets}")
    if not 0 <= begin <= end <= size - base:
        raise damaged(path, f"a tensor ends at byte {base + end} of {size}")
    if end - begin != math.prod(shape) * item_size(_DTYPES[dtype]):
        raise damaged(path, f"a tensor of {shape} {dtype} has {end - begin} bytes")
    return Tensor(
        tuple(shape),
        functools.partial(_read, path, base + begin, end - begin, _DTYPES[dtype], tuple(shape)),
    )


def _read(
    path: pathlib.Path, place: int, count: int, dtype: str, shape: tuple[int, ...]
) -> np.ndarray:
    with path.open("rb") as file:
        file.seek(place)
        return decode(file.read(count), dtype).reshape(shape)
