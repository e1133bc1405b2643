"""Tensors of a file that is not read before they are asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

# NumPy has no bfloat16: its bytes are the upper half of a float32's.
BFLOAT16 = "bfloat16"


class CheckpointError(ValueError):
    """A file that cannot be imported. The message is one line, whatever names the file has."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else "?" for c in message))


def damaged(path: object, reason: object) -> CheckpointError:
    """The error of a file that is not whole; the reason, as some library put it, becomes a line."""
    words = " ".join(str(reason).split()) or type(reason).__name__
    return CheckpointError(f"{path} is cut off or damaged ({words[:120]}); fetch it again.")


class Sealed:
    """An object that a pickle may hold and cannot change: its BUILD opcode ends here."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise CheckpointError("The file changes what it must not; it is damaged: fetch it again.")


@dataclasses.dataclass(frozen=True)
class Tensor(Sealed):
    """One tensor of a file.

    Attributes:
      shape: its sizes.
      read: reads it from the file, in the dtype of the file.
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
    """Little-endian bytes as a flat array; bfloat16 becomes float32."""
    if dtype != BFLOAT16:
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)


def item_size(dtype: str) -> int:
    """Bytes of one number."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def strided(flat: np.ndarray, offset: int, shape: Sequence[int], stride: Sequence[int]):
    """The view that PyTorch keeps of a storage; what would reach outside it is refused.

    Args:
      flat: the storage, `[numbers]`.
      offset: its first element, in numbers.
      shape: of the view.
      stride: one per axis, in numbers.

    Raises:
      CheckpointError: sizes that make no sense, or elements outside the storage.
    """
    numbers = (offset, *shape, *stride)
    good = len(shape) == len(stride) and all(type(n) is int and n >= 0 for n in numbers)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=False)) if good else -1
    if not good or (0 not in shape and last >= len(flat)):
        raise CheckpointError(
            f"A tensor claims shape {tuple(shape)} with strides {tuple(stride)} at {offset} in a "
            f"storage of {len(flat)} numbers; the file is damaged: fetch it again."
        )
    width = flat.itemsize
    return np.lib.stride_tricks.as_strided(
        flat[offset:], tuple(shape), [s * width for s in stride], writeable=False
    )
