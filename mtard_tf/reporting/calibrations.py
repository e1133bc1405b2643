"""What a calibrated export knows of its probabilities, as a table for card and report."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from mtard_tf.reporting import run_files
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
    versions = [path for path in run_dir.glob(f"export/{name}/*") if path.name.isdecimal()]
    path = max(versions, key=lambda path: int(path.name), default=run_dir) / _METADATA
    if not (path.exists() and (run_dir / name / "stage.json").exists()):
        return []
    known = run_files.mapping(path, {"stage": dict})
    stage = run_files.stage(run_dir / name / "stage.json")
    if "calibration" not in known or known["stage"].get("identity") != stage["identity"]:
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
