"""What a teacher says of the training images, computed once for a stage and read from then on."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Callable

import numpy as np

from mtard_tf import files


def kept(path: pathlib.Path, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The table of `path` if it is the one of `key`; else what `compute` returns, written there.

    Args:
      path: an `.npz` file.
      key: fingerprint of all that the table depends on: teacher, images, distiller.
      compute: makes the table, `[images, ...]`.
    """
    found = _read(path, key)
    if found is not None:
        return found
    table = compute()
    with files.replacing(path) as temporary:
        np.savez(temporary, key=np.array(key), table=table)
    return table


def _read(path: pathlib.Path, key: str) -> np.ndarray | None:
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            return file["table"] if str(file["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # not there, or damaged: computed anew
