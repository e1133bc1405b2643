"""Reads the files of a run back, and refuses damaged ones in one line."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mtard_tf import __version__
from mtard_tf.files import FORMAT, keras_digest

TIMING = "timing.json"  # of an audit: what differs from one making of it to the next
_NUMBER = (int, float)
_CHOSEN = {"epoch": int, "validation_clean": _NUMBER}
_STAGE = {
    **{"stage": str, "teachers": dict, "sources": dict, "identity": dict},
    **{"selected": str, "temperature": _NUMBER},
}
_REPORT = {
    **{"attacks": dict, "worst_case": dict, "threat": dict, "suite": dict, "crafted_on": dict},
    **{"clean": _NUMBER, "examples": int},
}
_ATTACKED = {"robust_accuracy": _NUMBER}


class RunFileError(ValueError):
    """A file of a run that is damaged or of another format. The message is one line."""


def stage(path: pathlib.Path) -> dict[str, Any]:
    """A `stage.json`.

    Raises:
      RunFileError: it is damaged, or of another format.
    """
    value = mapping(path, _STAGE)
    _check(path, value.get(value["selected"]), _CHOSEN)
    if strange := strange_beginning(value):
        raise _damaged(path, strange)
    return value


def sources(stages: Sequence[Mapping[str, Any]]) -> set[str]:
    """What stages learn or start from: other stages, or paths.

    Args:
      stages: contents of their `stage.json`, or those in `stages.json`.
    """
    taught = {source for stage in stages for source in stage["teachers"].values()}
    return taught | {stage["initial"] for stage in stages if stage.get("initial")}


def strange_beginning(value: Mapping[str, Any]) -> str:
    """What is of another kind in a stage's `sources` and `identity`; "" if nothing is."""
    for part in (value.get("sources", {}), *_values(value.get("identity", {}))):
        if not isinstance(part, dict):
            return f"{str(part)[:40]!r} where names and values are needed"
    return ""


def report(path: pathlib.Path) -> dict[str, Any]:
    """A `report.json`.

    Raises:
      RunFileError: it is damaged, or of another format.
    """
    value = mapping(path, _REPORT)
    for entry in (*value["attacks"].values(), value["worst_case"]):
        _check(path, entry, _ATTACKED)
    return value


def current_report(run_dir: pathlib.Path, name: str) -> dict[str, Any] | None:
    """The `report.json` of a stage's audit; None for none, or one of an earlier training.

    Raises:
      RunFileError: it is damaged, or of another format.
    """
    path = run_dir / "evaluation" / name / "report.json"
    if not (path.exists() and (run_dir / name / "stage.json").exists()):
        return None
    found, student = report(path), run_dir / name / "student.keras"
    # What is shown can also be made where only the reports are.
    if student.exists() and found.get("student") != keras_digest(student):
        return None
    return found


def timing(folder: pathlib.Path) -> dict[str, Any] | None:
    """An audit's `timing.json`; None where there is none, as only the report was copied.

    Raises:
      RunFileError: it is damaged, or of another format.
    """
    path = folder / TIMING
    if not path.exists():
        return None
    found = mapping(path, {"date": str, "made_by": str, "device": str, "attacks": dict})
    with reading(path):
        for cost in found["attacks"].values():
            float(cost["seconds"]), int(cost["passes"])
    return found


def sound_report(path: pathlib.Path, say: Callable[[str], None]) -> dict[str, Any]:
    """A `report.json`; where it is damaged an empty one, and `say` is given a line."""
    try:
        return report(path)
    except RunFileError:
        say(f"{path} is damaged; audited anew.")
        return {}


def rows(path: pathlib.Path, needs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` or `timing.jsonl`; one that is being written is left out.

    Args:
      path: the file; none is no rows.
      needs: key -> type that every row has.

    Raises:
      RunFileError: it is damaged.
    """
    if not path.exists():
        return []
    lines = _text(path).split("\n")[:-1]
    values = [_json(path, line) for line in lines]
    for value in values:
        _check(path, value, needs)
    return values


def correct(path: pathlib.Path, names: Sequence[str], examples: int) -> dict[str, np.ndarray]:
    """Of an `examples.npz`, which examples are classified correctly, bool `[examples]` by name.

    Raises:
      RunFileError: it is damaged, or lacks one of the names.
    """
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        found = {name: stored[name] for name in names}
    for name, values in found.items():
        if values.dtype != bool or values.shape != (examples,):
            raise _damaged(path, f"{name} is {values.dtype} {values.shape}, not {examples} bool")
    return found


def arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of an `examples.npz`.

    Raises:
      RunFileError: it is damaged.
    """
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return dict(stored)


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever goes wrong with the content of a file into a RunFileError that names it."""
    try:
        yield
    except (OSError, RunFileError):
        raise
    except Exception as error:  # zipfile's, zlib's, NumPy's; a missing or strange value
        raise _damaged(path, error) from error


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else [value]


def mapping(path: pathlib.Path, needs: Mapping[str, Any]) -> dict[str, Any]:
    """The names and values of a JSON file of a run.

    Args:
      path: the file.
      needs: key -> type that it has.

    Raises:
      RunFileError: it is damaged, or of another format.
    """
    value = _json(path, _text(path))
    _check(path, value, {"format": int})
    if value["format"] != FORMAT:
        raise RunFileError(
            f"{path} has format {value['format']}, and mtard_tf {__version__} reads format "
            f"{FORMAT}; use the version that wrote it, or remove it and run again what wrote it."
        )
    _check(path, value, needs)
    return value


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, error) from error


def _json(path: pathlib.Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def _check(path: pathlib.Path, value: Any, needs: Mapping[str, Any]) -> None:
    if not isinstance(value, dict):
        raise _damaged(path, f"it has {str(value)[:40]!r} where names and values are needed")
    for name, kind in needs.items():
        if not isinstance(value.get(name), kind):
            raise _damaged(path, f"{name} is {str(value.get(name))[:40]!r}")


def _damaged(path: pathlib.Path, reason: object) -> RunFileError:
    words = " ".join(str(reason).split())[:120]
    return RunFileError(
        f"{path} is damaged ({words}); put it back from a copy, or remove it and run again what "
        "wrote it."
    )
