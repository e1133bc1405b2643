"""Copies of a run what its tables and pages are made from: no weights, no images, some kB a stage.

    python benchmarks/run_figures.py RUN FIGURES
    mtard-compare --run_dir=FIGURES --jobs=0 --baseline=bmtard

From the copy `mtard-compare --jobs=0` makes the same tables and intervals as from the run, and
seeds that were trained elsewhere can be added to it. Prints the hours that each stage was trained.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil

import numpy as np
from tables import table

from mtard_tf import files
from mtard_tf.reporting import run_files

_OF_STAGE = ("stage.json", "timing.jsonl")
_OF_AUDIT = ("report.json", "timing.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in ("config.gin", "stages.json"):
        shutil.copy(given.run / name, given.out / name)
    rows = []
    for path in sorted(given.run.glob("*/stage.json"), key=lambda path: path.stat().st_mtime):
        stage = path.parent.name
        _copy(path.parent, given.out / stage, _OF_STAGE)
        _epochs(path.parent, given.out / stage)
        audit = given.run / "evaluation" / stage
        if (audit / "report.json").exists():
            _copy(audit, given.out / "evaluation" / stage, _OF_AUDIT)
            _outcomes(audit, given.out / "evaluation" / stage)
        epochs = run_files.rows(path.parent / "timing.jsonl", {"seconds": (int, float)})
        rows.append([f"`{stage}`", len(epochs), sum(row["seconds"] for row in epochs) / 3600])
    table(["stage", "epochs", "hours"], rows)


def _copy(source: pathlib.Path, target: pathlib.Path, names: tuple[str, ...]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(source / name, target / name)


def _epochs(source: pathlib.Path, target: pathlib.Path) -> None:
    """The epochs of `metrics.jsonl`, without its steps."""
    lines = (source / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] == "epoch"]
    files.write_text(target / "metrics.jsonl", "".join(kept))


def _outcomes(source: pathlib.Path, target: pathlib.Path) -> None:
    """Of `examples.npz` which images are classified correctly, without the images."""
    stored = run_files.arrays(source / "examples.npz")
    kept = {name: values for name, values in stored.items() if values.dtype == bool}
    np.savez_compressed(target / "examples.npz", **kept)


if __name__ == "__main__":
    main()
