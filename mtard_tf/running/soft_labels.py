"""What a teacher says of the training images, computed once for a stage and read from then on."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Callable, Mapping
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files
from mtard_tf.distiller.distiller import Distiller
from mtard_tf.distribute import strategies
from mtard_tf.files import digest
from mtard_tf.running.context import Setting

_NAME = "soft_labels_{}.npz"


def tables(
    distiller: Distiller,
    teachers: Mapping[str, keras.Model],
    sources: Mapping[str, str],
    folder: pathlib.Path,
    setting: Setting,
) -> list[tf.Tensor]:
    """What a distiller asks its teachers only once, in the order of its `cached_roles`.

    Args:
      distiller: of the stage.
      teachers: role -> model.
      sources: role -> fingerprint of the teacher's file.
      folder: of the stage; the tables lie there until `remove`. Other workers find the chief's.
      setting: with the training images.
    """
    split = setting.data.train
    result: list[np.ndarray] = []
    for chief in (True, False):
        if chief == strategies.is_chief(setting.strategy):
            for role in distiller.cached_roles:
                made_by = type(distiller).__name__, distiller.table_settings
                key = digest(made_by, sources.get(role), split.images)
                ask = partial(distiller.table, role, teachers[role], split)
                result.append(kept(folder / _NAME.format(role), key, ask))
        strategies.wait_for_all(setting.strategy)
    return [tf.constant(table) for table in result]


def remove(folder: pathlib.Path) -> None:
    """Removes the tables of a stage that is finished."""
    for path in folder.glob(_NAME.format("*")):
        files.remove(path)


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
