"""Tensors that are read from a file on access."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy
import numpy as np


class WeightsFileError(ValueError):
    """A file that cannot be imported. The message is one line, whatever names the file has."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else "?" for c in message))


def damaged(path: object, reason: object) -> WeightsFileError:
    """The error for a truncated or damaged file; the reason is a library's message or exception."""
    words = " ".join(str(reason).split()) or type(reason).__name__
    return WeightsFileError(f"{path} is cut off or damaged ({words[:120]}); fetch it again.")


class Sealed:
    """Base of objects that a pickle may hold but not modify: its BUILD opcode is refused."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise WeightsFileError(
            "The file sets attributes of an object that has none; it is damaged: fetch it again."
        )


@dataclasses.dataclass(frozen=True)
class Tensor(Sealed):
    """One tensor of a file.

    Attributes:
      shape: sizes of its axes.
      read: reads the values from the file, in the file's dtype.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def numpy(self) -> np.ndarray:
        """Its values as float32, of its shape."""
        return np.ascontiguousarray(self.read(), np.float32)


def decode(data: bytes | memoryview, dtype: str) -> np.ndarray:
    """Little-endian bytes as a flat array."""
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))


def strided(
    flat: np.ndarray, offset: int, shape: Sequence[int], stride: Sequence[int]
) -> np.ndarray:
    """A PyTorch tensor as a view of its storage.

    Args:
      flat: the storage, `[numbers]`.
      offset: index of the view's first element in `flat`.
      shape: of the view.
      stride: elements between neighbours, one per axis.

    Raises:
      WeightsFileError: negative or non-integer sizes, or elements outside the storage.
    """
    numbers = (offset, *shape, *stride)
    good = len(shape) == len(stride) and all(type(n) is int and n >= 0 for n in numbers)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=False)) if good else -1
    if not good or (0 not in shape and last >= len(flat)):
        raise WeightsFileError(
            f"A tensor claims shape {tuple(shape)} with strides {tuple(stride)} at {offset} in a "
            f"storage of {len(flat)} numbers; the file is damaged: fetch it again."
        )
    width = flat.itemsize
    return np.lib.stride_tricks.as_strided(
        flat[offset:], tuple(shape), [s * width for s in stride], writeable=False
    )
