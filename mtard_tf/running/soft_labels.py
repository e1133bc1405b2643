"""A teacher's soft labels of the training images, computed once for a stage and cached."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files
from mtard_tf.data.extra import Extra
from mtard_tf.distiller.distiller import Distiller
from mtard_tf.distribute import strategies
from mtard_tf.files import digest
from mtard_tf.running.context import RunContext

_NAME = "soft_labels_{}.npz"
EXTRA = "extra_labels.npz"  # a teacher's labels of extra images


def tables(
    distiller: Distiller,
    teachers: Mapping[str, keras.Model],
    sources: Mapping[str, str],
    folder: pathlib.Path,
    context: RunContext,
    extra: Extra | None = None,
) -> list[tf.Tensor]:
    """What a distiller asks its teachers only once, in the order of `teachers.cached`.

    Args:
      distiller: of the stage.
      teachers: role -> model.
      sources: role -> fingerprint of the teacher's file.
      folder: of the stage; the tables lie there until `remove`.
      context: with the training images.
      extra: images whose rows follow theirs; None for none.
    """
    splits = {"": context.data.train} | ({} if extra is None else {"_extra": extra.split})
    wanted = []
    for role in distiller.teachers.cached:
        for suffix, split in splits.items():
            made_by = type(distiller).__name__, distiller.table_settings
            key = digest(made_by, sources.get(role), split.images)
            ask = partial(distiller.table, role, teachers[role], split)
            wanted.append((folder / _NAME.format(role + suffix), key, ask))
    found = shared(wanted, context.strategy)
    return [tf.concat(found[i : i + len(splits)], 0) for i in range(0, len(found), len(splits))]


def shared(
    wanted: Sequence[tuple[pathlib.Path, str, Callable[[], np.ndarray]]],
    strategy: tf.distribute.Strategy,
) -> list[np.ndarray]:
    """`kept` of each of these, by the chief first; other workers find the chief's files."""
    found: list[np.ndarray] = []
    for chief in (True, False):
        if chief == strategies.is_chief(strategy):
            found = [kept(*one) for one in wanted]
        strategies.wait_for_all(strategy)
    return found


def remove(folder: pathlib.Path) -> None:
    """Removes the tables of a stage that is finished."""
    for path in (*folder.glob(_NAME.format("*")), folder / EXTRA):
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
