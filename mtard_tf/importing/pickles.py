"""Pickles of weights, read without running anything that they name.

A pickle is a program: it names functions to call. Here each name is looked up in the table of
`pickle_stand_ins`, and a name that is not in it ends the reading.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from mtard_tf.importing.pickle_stand_ins import ALLOWED
from mtard_tf.importing.tensors import WeightsFileError, damaged

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


def load(
    file: BinaryIO,
    what: str,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads the next pickled value of a file.

    Args:
      file: opened in binary mode.
      what: its name, for messages.
      persistent_load: persistent id of PyTorch -> `Storage`.

    Raises:
      WeightsFileError: a name outside the table, or a damaged file. Nothing was run.
    """
    try:
        _check_memo(file)
        return _Unpickler(file, what, persistent_load).load()
    except WeightsFileError:
        raise
    except _DAMAGE as error:
        raise damaged(what, error) from error


def _check_memo(file: BinaryIO) -> None:
    """Raises ValueError for a memo index above the number of opcodes so far.

    `pickle` allocates the memo up to the index: five bytes of a file could ask for 32 GiB.
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
        """The stand-in for a name; every opcode that names something ends here."""
        full = f"{module}.{name}"
        if full in ALLOWED:
            return ALLOWED[full]
        whole = module == "__main__" or (module.startswith("torch.nn") or ".models" in module)
        advice = (
            "it holds a whole model: where its code is, save model.state_dict() instead"
            if whole
            else "where it can be trusted, save the weights alone: torch.save(state_dict)"
        )
        raise WeightsFileError(
            f"{self._what} asks for {full}, which weights do not need; it was refused and nothing "
            f"was run. If the file is yours, {advice}."
        )

    def persistent_load(self, pid: Any) -> Any:
        """The storage of a persistent id."""
        if self._storage is None:
            raise WeightsFileError(f"{self._what} refers to storages outside it; it is damaged.")
        return self._storage(pid)
