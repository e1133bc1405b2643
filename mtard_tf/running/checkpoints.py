"""Training states on disk: written atomically, the last few kept, a damaged one skipped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from mtard_tf import files
from mtard_tf.reporting import run_files

BEST = "best"  # folder of the state to go back to, beside those to go on from
_NOTES = "notes"
_VALUES = "values/"


# What reading a damaged archive raises.
_DAMAGED = (
    *(EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error),
    *(RecursionError, NotImplementedError),  # endless notes, an unknown compression
)


class CheckpointError(ValueError):
    """A training state that cannot be used. The message is one line."""


@dataclasses.dataclass(frozen=True)
class State:
    """The state of a training.

    Attributes:
      step: batches done.
      values: path -> value of every variable of distiller and optimizer.
      notes: what the callbacks resume with; as JSON keeps it.
    """

    step: int
    values: Mapping[str, np.ndarray]
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
        arrays = {f"{_VALUES}{path}": value for path, value in state.values.items()}
        notes = np.frombuffer(json.dumps(dict(state.notes)).encode(), np.uint8)
        with files.replacing(self._path(state.step)) as temporary:
            np.savez(temporary, **arrays, **{_NOTES: notes})  # type: ignore[arg-type]
        # Those of later steps could not be read when this training began.
        later = [path for path in self._paths() if _step(path) > state.step]
        older = [path for path in self._paths() if _step(path) <= state.step][self._keep :]
        for path in (*later, *older):
            path.unlink(missing_ok=True)

    def newest(self, say: Callable[[str], None] = lambda line: None) -> State | None:
        """The newest state that is whole, or None; `say` is given a line for each that is not.

        Raises:
          OSError: a file cannot be read at all, which says nothing about what is in it.
        """
        for path in self._paths():
            try:
                return _read(path)
            except _DAMAGED as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                say(f"{path} is damaged ({reason}); it is skipped for the state before it.")
        return None

    def notes(self) -> Mapping[str, Any] | None:
        """The notes of the newest state that has readable ones, without its variables; or None."""
        for path in self._paths():
            with contextlib.suppress(*_DAMAGED), _archive(path) as archive:
                return _notes(archive)
        return None

    @contextlib.contextmanager
    def noted(self, state: State) -> Iterator[None]:
        """The block restores from the notes of a state.

        Raises:
          CheckpointError: they are not what a training writes.
        """
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"{self._path(state.step)} has invalid notes ({reason}); remove the "
                "file, and the stage resumes from the state before it."
            ) from error

    def any(self) -> bool:
        """Whether there are states, whole or not."""
        return bool(self._paths())

    def clear(self) -> None:
        """Removes all states, the best, and what a kill left of one that was being written."""
        files.remove(self._folder / BEST)
        for path in (*self._paths(), *self._folder.glob(".state-*")):
            path.unlink(missing_ok=True)

    def _path(self, step: int) -> pathlib.Path:
        return self._folder / f"state-{step:09d}.npz"

    def _paths(self) -> list[pathlib.Path]:
        paths = (p for p in self._folder.glob("state-*.npz") if re.fullmatch(r"state-\d+", p.stem))
        return sorted(paths, reverse=True)


def variables(distiller: keras.Model) -> list[keras.Variable]:
    """All that a step may change: student, balance, random generators, optimizer."""
    return [*distiller.variables, *distiller.optimizer.variables]


def values(distiller: keras.Model) -> dict[str, np.ndarray]:
    """Path -> value of all `variables`, see `named`."""
    return {path: np.asarray(variable.numpy()) for path, variable in named(distiller).items()}


def named(distiller: keras.Model) -> dict[str, keras.Variable]:
    """Path -> variable, in the order of `variables`; the paths are the same in every process.

    Keras numbers what was given no name through the process (`dense_7/kernel`, `adam_2/iteration`),
    so that the numbers depend on what was built before. Here they are counted within the distiller.
    """
    counts: dict[str, dict[str, int]] = {}
    owned: dict[str, str] = {}  # as an optimizer's variable names it -> path
    result: dict[str, keras.Variable] = {}
    for variable in variables(distiller):
        top, _, rest = variable.path.partition("/")
        owner = next((o for o in sorted(owned, key=len, reverse=True) if rest.startswith(o)), None)
        parts = [top, owned[owner] + rest[len(owner) :]] if owner else variable.path.split("/")
        path = "/".join(_counted(part, counts) for part in parts)
        while path in result:
            path += "+"  # of the same name as another
        result[path] = variable
        owned.setdefault(variable.path.replace("/", "_") + "_", path.replace("/", "_") + "_")
    return result


def restore(distiller: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Sets `variables` to what `values` gave.

    Raises:
      CheckpointError: other variables; none has been changed then.
    """
    targets = named(distiller)
    for path in dict.fromkeys((*targets, *arrays)):
        ours = _kind(tuple(targets[path].shape), targets[path].dtype) if path in targets else ""
        theirs = _kind(arrays[path].shape, arrays[path].dtype) if path in arrays else ""
        if ours != theirs:
            raise CheckpointError(
                f"The checkpoint is of another student or optimizer: the variable {path} is "
                f"{theirs or 'missing'} there and {ours or 'missing'} here; put the former one "
                "back, or remove the stage's folder to begin anew."
            )
    for path, variable in targets.items():
        variable.assign(arrays[path])


def _kind(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{dtype} {list(shape)}"


def _counted(part: str, counts: dict[str, dict[str, int]]) -> str:
    """A name with its number counted among those of the same name."""
    base = re.sub(r"_\d+$", "", part)
    number = counts.setdefault(base, {}).setdefault(part, len(counts[base]))
    return f"{base}_{number}" if number else base


def _step(path: pathlib.Path) -> int:
    return int(path.stem.split("-")[1])


def _read(path: pathlib.Path) -> State:
    with _archive(path) as archive:
        names = [name for name in archive if name != _NOTES]
        values = {name[len(_VALUES) :]: archive[name] for name in names}
        if strange := [name for name, v in values.items() if not isinstance(v, np.ndarray)]:
            raise ValueError(f"{strange[0]!r} is no array")
        return State(_step(path), values, _notes(archive))


@contextlib.contextmanager
def _archive(path: pathlib.Path) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):  # NumPy would take it for a pickle or an array
            raise ValueError("it is no archive")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            yield archive


def _notes(archive: Mapping[str, Any]) -> Mapping[str, Any]:
    """The notes of a state."""
    stored = archive[_NOTES]
    notes = json.loads(bytes(stored))
    if not isinstance(notes, dict):
        raise ValueError(f"its notes are {str(notes)[:40]!r}")
    if strange := run_files.strange_beginning(notes):
        raise ValueError(f"it has {strange}")
    return notes
