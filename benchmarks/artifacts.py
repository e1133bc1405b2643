"""The audit of each deployed format of a net: what every attack leaves of its images.

    python benchmarks/artifacts.py runs/quickstart/student/student.keras --epsilon=0.1

Writes the formats of a `.keras` file beside each other, audits each with the suite `artefact` (the
SavedModel, which has gradients, with the same attacks on it itself), and prints one row by format.
With `--temperature` the net is trained first, by defensive distillation at that temperature.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import tempfile

import numpy as np

import mtard_tf as mt
from mtard_tf.auditing.audit import Audit
from mtard_tf.commands.datasets import dataset
from mtard_tf.config import gin_files
from mtard_tf.data.batches import to_float
from mtard_tf.exporting import converting
from mtard_tf.models import model_files
from mtard_tf.runtimes import loading
from mtard_tf.threat import ThreatModel

FILES = {
    "litert_int8": "model_int8.tflite",
    "saved_model": "saved_model",
    "onnx": "model.onnx",
    "litert": "model.tflite",
    "litert_float16": "model_float16.tflite",
}
CALIBRATION = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=pathlib.Path)
    parser.add_argument("--dataset", default="fashion_mini")
    parser.add_argument("--data_dir")
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--formats", nargs="+", default=list(FILES), choices=list(FILES))
    parser.add_argument("--temperature", type=float, help="Train a defensive net in its place.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path)
    given = parser.parse_args()
    data = dataset(given.dataset, given.data_dir)
    out = given.out or pathlib.Path(tempfile.mkdtemp(prefix="artifacts-"))
    net = model_files.load(given.student)
    if given.temperature:
        net = defensive(net, data, given.temperature, given.epochs, given.epsilon)
    written = write(net, data, given.formats, out)
    print(f"{datetime.date.today()}, load {os.getloadavg()[0]:.1f} of {os.cpu_count()}", flush=True)
    for name, path in written.items():
        report = audited(path, name, net, data, given, out)
        print(row(name, path, report), flush=True)
        print(f"    {report['verdict']}", flush=True)


def defensive(net, data, temperature: float, epochs: int, epsilon: float):
    """A net of the same architecture, distilled at a temperature from one trained at it."""
    settings = {"temperature": temperature, "epsilon": epsilon, "epochs": epochs}
    settings |= {"optimizer": "adam", "learning_rate": 1e-3}
    teacher = mt.train("natural", net, data, **settings)
    return mt.distil("defensive", net, data, teachers={"teacher": teacher}, **settings)


def write(net, data, formats, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The files of a net by format, calibrated on the first training images."""
    folder.mkdir(parents=True, exist_ok=True)
    converting.source(net, data.image_shape, folder / "saved_model")
    calibration = np.asarray(to_float(data.train.images[:CALIBRATION]))
    for name in formats:
        if name != "saved_model":
            place = folder / FILES[name]
            converting.convert(name, folder / "saved_model", place, {}, calibration)
    return {name: folder / FILES[name] for name in formats}


def audited(path: pathlib.Path, name: str, net, data, given, out: pathlib.Path) -> dict:
    """The report of one file; the SavedModel's attacks follow its own gradients."""
    suite = gin_files.suite("artefact")
    model, surrogate = loading.load(path, data.image_shape), net
    if name == "saved_model":
        along = {key.removeprefix("transfer_"): attack for key, attack in suite.transfer.items()}
        suite = dataclasses.replace(suite, attacks={**suite.attacks, **along}, transfer={})
        surrogate = None
    threat = ThreatModel("linf", given.epsilon)
    audit = Audit(data, suite, threat, examples=given.examples)
    return audit(model, name, out / "audits" / name, surrogate)


def row(name: str, path: pathlib.Path, report: dict) -> str:
    """One row of the table."""
    tried = {key: entry["robust_accuracy"] for key, entry in report["attacks"].items()}

    def best(prefix: str) -> str:
        found = [value for key, value in tried.items() if key.startswith(prefix)]
        return f"{min(found):.1%}" if found else "-"

    own = {key: tried.get(f"straight_through_{key}", tried.get(key)) for key in ("pgd", "apgd_t")}
    size = sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else None
    cells = [
        name,
        f"{size or path.stat().st_size:,}",
        f"{report['clean']:.1%}",
        *("-" if value is None else f"{value:.1%}" for value in own.values()),
        best("transfer_"),
        f"{tried['square']:.1%}",
        f"{tried['spsa']:.1%}",
        f"{report['worst_case']['robust_accuracy']:.1%}",
        json.dumps(report.get("artefact", {}).get("decided_by", "")).strip('"'),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
