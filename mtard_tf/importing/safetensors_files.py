"""safetensors files, read with huggingface's own library, one tensor at a time."""

from __future__ import annotations

import functools
import pathlib
import struct

import numpy as np
from safetensors import SafetensorError, safe_open

from mtard_tf.importing.tensors import Tensor, WeightsFileError, damaged

# What NumPy (with ml_dtypes, which TensorFlow brings) turns into float32 without a scale.
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


def is_safetensors(path: pathlib.Path) -> bool:
    """Whether the file begins as the format does: a length in eight bytes, then a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] > 1


def read(path: pathlib.Path) -> dict[str, Tensor]:
    """The tensors by name, in the order of the file; values are read on access.

    Raises:
      WeightsFileError: cut off or damaged, or a dtype that weights do not have.
    """
    try:
        with safe_open(path, "numpy") as file:
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise damaged(path, reason) from error
    for name, dtype in dtypes.items():
        if dtype not in _DTYPES:
            raise WeightsFileError(
                f"{path} has {name!r}, a tensor of {dtype}; save its weights as one of "
                f"{', '.join(_DTYPES)}."
            )
    return {
        name: Tensor(shape, functools.partial(_read, path, name)) for name, shape in shapes.items()
    }


def _read(path: pathlib.Path, name: str) -> np.ndarray:
    with safe_open(path, "numpy") as file:
        return file.get_tensor(name)
