"""What `Stage.quantization = 'int8'` is worth: the int8 files of students trained with and without.

    python benchmarks/quantized_training.py runs/quickstart [--seeds=3] [--out=FOLDER]

Trains the quickstart's student from the run's two teachers, by seed once as it is and once as its
file computes; exports both as `litert_int8`, audits net and file with the attacks of the suite
`artefact` but SPSA on the first test images, and prints a row of each, and the mean paired
difference with its standard error. With `--out` it goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import tempfile

import numpy as np
from tables import table

import mtard_tf as mt
from mtard_tf.commands.datasets import dataset
from mtard_tf.config import gin_files
from mtard_tf.exporting import export
from mtard_tf.exporting.formats import FORMATS, INT8
from mtard_tf.schedules import Warmup

EPSILON = 0.1
HEAD = ("seed", "quantization", "clean, float", "worst case, float", "same label")
HEAD += ("clean, int8", "worst case, int8", "Square, int8", "decided by")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--out", type=pathlib.Path)
    given = parser.parse_args()
    out = given.out or pathlib.Path(tempfile.mkdtemp(prefix="quantized-"))
    data, rows = dataset("fashion_mini", None), []
    for seed in range(given.seeds):
        for kind in (None, "int8"):
            found = measured(data, given, seed, kind, out / f"{kind or 'off'}_{seed}")
            rows.append([seed, kind or "off", *found])
            print(rows[-1], flush=True)
    table(HEAD, [[*row[:2], *(_shown(cell) for cell in row[2:])] for row in rows])
    for place, what in enumerate(HEAD[2:-1], 2):
        gains = [on[place] - off[place] for off, on in zip(rows[::2], rows[1::2], strict=True)]
        error = np.std(gains, ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.nan
        print(f"{what}: {100 * np.mean(gains):+.2f} points, standard error {100 * error:.2f}")


def measured(data, given, seed: int, kind: str | None, out: pathlib.Path) -> list:
    """The figures of one student, float and int8."""
    net = trained(data, given.run_dir, seed, kind, out / "run")
    suite = gin_files.suite("artefact").without(["spsa"])
    along = {key.removeprefix("transfer_"): attack for key, attack in suite.transfer.items()}
    own = dataclasses.replace(suite, attacks={**suite.attacks, **along}, transfer={})
    settings = {"epsilon": EPSILON, "examples": given.examples}
    whole = mt.audit(net, data, suite=own, out=out / "float", **settings)
    versions = sorted((out / "export").glob("[0-9]*"))
    folder = versions[0] if versions else mt.export(net, out / "export", data, [INT8])
    file = folder / FORMATS[INT8].file
    report = mt.audit(file, data, suite=suite, surrogate=net, out=out / "int8", **settings)
    agreement = export.known(folder)["formats"][INT8]["agreement"]
    square = report["attacks"]["square"]["robust_accuracy"]
    figures = [whole.clean, whole.worst_case, agreement, report.clean, report.worst_case, square]
    return [*figures, report["artefact"]["decided_by"]]


def trained(data, run_dir: pathlib.Path, seed: int, kind: str | None, out: pathlib.Path):
    """The student of gin/quickstart.gin."""
    net = mt.models.small_cnn(data.image_shape, data.num_classes, widths=(8, 8, 16, 16), dense=48)
    settings = {"optimizer": "adam", "learning_rate": 2e-3, "batch_size": 128, "validate_every": 3}
    settings |= {"epsilon_schedule": Warmup(2), "temperature_rate": 0.005, "quantization": kind}
    names = {"clean": "clean_teacher", "robust": "robust_teacher"}
    teachers = {role: run_dir / name / "student.keras" for role, name in names.items()}
    settings |= {"teachers": teachers, "epochs": 9, "epsilon": EPSILON, "seed": seed}
    return mt.distil("bmtard", net, data, name="student", run_dir=out, **settings)


def _shown(cell: object) -> str:
    return f"{cell:.1%}" if isinstance(cell, float) else str(cell)


if __name__ == "__main__":
    main()
