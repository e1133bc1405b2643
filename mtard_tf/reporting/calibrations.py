"""The calibration of an export as text, for card, report and page."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from mtard_tf.reporting import notation, run_files, svg
from mtard_tf.reporting.tables import Table

_HEAD = ("images", "calibration", "accuracy", "mean confidence", "ECE", "Brier score")
_METADATA = "assets.extra/metadata.json"


def table(calibration: Mapping[str, Any]) -> list[str]:
    """The figures before and after, of clean and of attacked images, as lines of Markdown.

    Args:
      calibration: see `exporting.calibration.Calibration.known`.
    """
    rows = []
    for kind in ("clean", "attacked"):
        for when in ("before", "after"):
            entry = calibration[kind][when]
            shares = [f"{entry[x]:.1%}" for x in ("accuracy", "confidence", "ece")]
            rows.append([kind, when, *shares, f"{entry['brier']:.3f}"])
    return Table(_HEAD, rows, "llrrrr").markdown()


def section(run_dir: pathlib.Path, name: str) -> list[str]:
    """The part of a run's report on a stage's latest export, where that is calibrated.

    Empty for none, and for one of an earlier training.

    Raises:
      RunFileError: the export's `metadata.json` is damaged, or of another format.
    """
    path = _latest(run_dir, name)
    if path is None:
        return []
    found = run_files.mapping(path, {"calibration": dict})["calibration"]
    with run_files.reading(path):
        return [
            "",
            f"## Probabilities of {name}",
            "",
            f"Version {path.parent.parent.name} of its export has the temperature "
            f"{found['temperature']:.4g}, fitted to {found['fitted_on']:,} validation images. On "
            f"{found['images']:,} {found['split']} images, expected calibration error (ECE) in 15 "
            "bins:",
            "",
            *table(found),
        ]


def view(run_dir: pathlib.Path, name: str) -> dict[str, Any] | None:
    """What a run's page shows of the same export; None for none, and for one of an old training.

    Raises:
      RunFileError: the export's `metadata.json` is damaged, or of another format.
    """
    path = _latest(run_dir, name)
    if path is None:
        return None
    known = run_files.mapping(path, {"calibration": dict})["calibration"]
    with run_files.reading(path):
        return {
            "known": known,
            "version": path.parent.parent.name,
            "temperature": f"{known['temperature']:.4g}",
            "fitted_on": f"{known['fitted_on']:,}",
            "measured_on": f"{known['images']:,} {known['split']}",
            "attack": f"{known['attack']}, {notation.threat(known['threat'])}",
            "misled": known["attacked"]["after"]["ece"] > known["attacked"]["before"]["ece"],
            "threshold": f"{known['threshold']:.3f}",
            "coverage": notation.percent(known["coverage"]),
            "rows": [
                _row(kind, when, known[kind][when])
                for kind in ("clean", "attacked")
                for when in ("before", "after")
            ],
            "kept": [
                {
                    "kind": kind,
                    "covered": notation.percent(known[kind]["covered"]),
                    "bar": svg.bar(known[kind]["covered"]),
                    "accuracy": notation.percent(known[kind]["accuracy_covered"]),
                    "all": notation.percent(known[kind]["after"]["accuracy"]),
                }
                for kind in ("clean", "attacked")
            ],
        }


def _row(kind: str, when: str, entry: Mapping[str, float]) -> dict[str, Any]:
    shares = {name: notation.percent(entry[name]) for name in ("accuracy", "confidence", "ece")}
    return {
        "kind": kind,
        "when": when,
        **shares,
        "bar": svg.bar(entry["confidence"], (entry["accuracy"], entry["accuracy"])),
        "brier": f"{entry['brier']:.3f}",
    }


def _latest(run_dir: pathlib.Path, name: str) -> pathlib.Path | None:
    """`metadata.json` of a stage's latest export, where that is calibrated and of this training."""
    versions = [path for path in run_dir.glob(f"export/{name}/*") if path.name.isdecimal()]
    path = max(versions, key=lambda path: int(path.name), default=run_dir) / _METADATA
    if not (path.exists() and (run_dir / name / "stage.json").exists()):
        return None
    known = run_files.mapping(path, {"stage": dict})
    stage = run_files.stage(run_dir / name / "stage.json")
    current = "calibration" in known and known["stage"].get("identity") == stage["identity"]
    return path if current else None
