"""Training states on disk: written whole, the last few kept, a damaged one passed over."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from mtard_tf import files

_NOTES = "notes"


class CheckpointError(ValueError):
    """A training state that cannot be used. The message is one line."""


@dataclasses.dataclass(frozen=True)
class State:
    """What a training has come to.

    Attributes:
      step: batches done.
      values: of every variable of distiller and optimizer, in their order.
      notes: what the callbacks go on with; must survive JSON.
    """

    step: int
    values: list[np.ndarray]
    notes: Mapping[str, Any]


class Checkpoints:
    """The training states of one stage, one file each: `state-000001200.npz` after 1,200 steps.

    Every array's checksum is in the file and is checked when it is read.

    Args:
      folder: `checkpoints/` of the stage.
      keep: how many of the newest stay.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2) -> None:
        self._folder, self._keep = folder, keep

    def save(self, state: State) -> None:
        """Writes a state, on disk when this returns, and removes those beyond `keep`."""
        arrays = {f"{i:05d}": value for i, value in enumerate(state.values)}
        notes = np.frombuffer(json.dumps(dict(state.notes)).encode(), np.uint8)
        with files.replacing(self._folder / f"state-{state.step:09d}.npz") as temporary:
            np.savez(temporary, **arrays, **{_NOTES: notes})  # type: ignore[arg-type]
        # Those of later steps could not be read when this training began.
        later = [path for path in self._paths() if _step(path) > state.step]
        older = [path for path in self._paths() if _step(path) <= state.step][self._keep :]
        for path in (*later, *older):
            path.unlink(missing_ok=True)

    def newest(self, say: Callable[[str], None] = lambda line: None) -> State | None:
        """The newest state that is whole, or None; `say` hears of each that is not.

        Raises:
          OSError: a file cannot be read at all, which says nothing about what is in it.
        """
        for path in self._paths():
            try:
                return _read(path)
            except (EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                say(f"{path} is damaged ({reason}); it is passed over for the state before it.")
        return None

    def any(self) -> bool:
        """Whether there are states, whole or not."""
        return bool(self._paths())

    def clear(self) -> None:
        """Removes all states, and what a kill left of one that was being written."""
        for path in (*self._paths(), *self._folder.glob(".state-*")):
            path.unlink(missing_ok=True)

    def _paths(self) -> list[pathlib.Path]:
        return sorted(self._folder.glob("state-*.npz"), reverse=True)


def variables(distiller: keras.Model) -> list[keras.Variable]:
    """All that a step may change: student, balance, random generators, optimizer."""
    return [*distiller.variables, *distiller.optimizer.variables]


def values(distiller: keras.Model) -> list[np.ndarray]:
    """What `variables` hold, in their order."""
    return [np.asarray(variable.numpy()) for variable in variables(distiller)]


def restore(distiller: keras.Model, arrays: list[np.ndarray]) -> None:
    """Sets `variables` to what `values` gave.

    Raises:
      CheckpointError: other variables; none has been changed then.
    """
    targets = variables(distiller)
    ours = [(tuple(v.shape), str(v.dtype)) for v in targets]
    theirs = [(array.shape, str(array.dtype)) for array in arrays]
    if ours != theirs:
        raise CheckpointError(
            f"The checkpoint holds {len(theirs)} variables of other shapes than the {len(ours)} of "
            "this student and optimizer; remove the stage's folder to begin anew."
        )
    for variable, array in zip(targets, arrays, strict=True):
        variable.assign(array)


def _step(path: pathlib.Path) -> int:
    return int(path.stem.split("-")[1])


def _read(path: pathlib.Path) -> State:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        names = sorted(name for name in archive.files if name != _NOTES)
        notes = json.loads(archive[_NOTES].tobytes())
        return State(_step(path), [archive[name] for name in names], notes)
