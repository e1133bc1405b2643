"""The audits of finished stages, and whether they can be compared in one table."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtard_tf.reporting import run_files

_TIMING = {"seconds": (int, float), "partial": bool, "validated": bool}


class ComparisonError(ValueError):
    """A run that cannot be compared so. The message is one line."""


@dataclasses.dataclass(frozen=True)
class Audited:
    """What a finished and audited stage left.

    Attributes:
      stage: content of its `stage.json`.
      report: content of its `report.json`.
      correct: "clean" and each attack -> which examples are classified correctly, bool
        `[examples]`.
      seconds: of its fastest epoch that was validated, since whatever else the machine did can
        only add. None if none was timed whole.
    """

    stage: Mapping[str, Any]
    report: Mapping[str, Any]
    correct: Mapping[str, np.ndarray]
    seconds: float | None

    @property
    def name(self) -> str:
        """The stage's."""
        return self.stage["stage"]


def row_of(stage: str) -> str:
    """The row that a stage belongs to: its name without the `_s<number>` of a replicate."""
    return re.sub(r"_s\d+$", "", stage)


def load(run_dir: pathlib.Path, names: Sequence[str]) -> list[Audited]:
    """What is finished, and audited since it was last trained, of these stages, in their order."""
    return [found for name in names if (found := _load(run_dir, name)) is not None]


def _load(run_dir: pathlib.Path, name: str) -> Audited | None:
    report, examples = run_files.current_report(run_dir, name), run_dir / "evaluation" / name
    examples /= "examples.npz"
    if report is None or not examples.exists():
        return None
    stage = run_files.stage(run_dir / name / "stage.json")
    correct = run_files.correct(examples, ("clean", *report["attacks"]), report["examples"])
    return Audited(stage, report, correct, _seconds(run_dir / name / "timing.jsonl"))


def _seconds(path: pathlib.Path) -> float | None:
    rows = run_files.rows(path, _TIMING)
    whole = [row["seconds"] for row in rows if row["validated"] and not row["partial"]]
    return min(whole, default=None)


def check_alike(audited: Sequence[Audited]) -> None:
    """Refuses audits that cannot stand in one table.

    Raises:
      ComparisonError: none, or other data, examples, threat models or settings of an attack.
    """
    if not audited:
        raise ComparisonError("No stage is both trained and audited; give --jobs=1 or more.")
    _check_settings(audited)
    for key in ("dataset", "split", "examples", "threat"):
        found = {one.name: one.report[key] for one in audited}
        first, value = next(iter(found.items()))
        for name, other in found.items():
            if other != value:
                raise ComparisonError(
                    f"The audits differ in {key}: {first} has {value}, {name} has {other}; audit "
                    "them alike, with mtard-compare --jobs=1 or more."
                )


def _check_settings(audited: Sequence[Audited]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for one in audited:
        for key, value in one.report["suite"].items():
            # The temperature of the training is each stage's own.
            value = re.sub(r"temperature=[\d.]+", "temperature", value)
            stage, other = seen.setdefault(key, (one.name, value))
            if other != value:
                raise ComparisonError(
                    f"{key} was {other} for {stage} and {value} for {one.name}; audit them alike, "
                    "with mtard-compare --jobs=1 or more."
                )
