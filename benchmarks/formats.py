"""The formats of an exported net side by side: what each is, and what every attack leaves of it.

    python benchmarks/formats.py runs/quickstart/student/student.keras --epsilon=0.1

Exports a `.keras` file in each format, audits each with the suite `artefact` (the SavedModel, which
has gradients, with the same attacks on it itself), and prints one row by format. Bytes, agreement
and milliseconds (one image, one thread) are what the export measured, all before the first audit.
With `--temperature` the net is trained first, by defensive distillation at that temperature. With
`--out` it goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import pathlib
import tempfile

import keras

import mtard_tf as mt
from mtard_tf.auditing.audit import Audit
from mtard_tf.commands.datasets import dataset
from mtard_tf.config import gin_files
from mtard_tf.exporting import export
from mtard_tf.exporting.formats import FORMATS
from mtard_tf.models import model_files
from mtard_tf.runtimes import loading
from mtard_tf.threat import ThreatModel

COLUMNS = ("format", "bytes", "same label", "clean", "PGD-20, own gradients")
COLUMNS += ("APGD-T, own gradients", "transfer", "Square", "SPSA", "worst case", "decided by")
COLUMNS += ("8 bits", "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=pathlib.Path)
    parser.add_argument("--dataset", default="fashion_mini")
    parser.add_argument("--data_dir")
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--temperature", type=float, help="Train a defensive net in its place.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path)
    given = parser.parse_args()
    data = dataset(given.dataset, given.data_dir)
    out = given.out or pathlib.Path(tempfile.mkdtemp(prefix="formats-"))
    net = model_files.load(given.student)
    if given.temperature:
        net = defensive(net, data, given.temperature, given.epochs, given.epsilon, out)
    folder = exported(net, data, given.formats, out)
    print(f"{datetime.date.today()}, load {os.getloadavg()[0]:.1f} of {os.cpu_count()}")
    print("| " + " | ".join(COLUMNS) + " |", flush=True)
    verdicts = []
    for name, known in export.known(folder)["formats"].items():
        report = audited(folder / FORMATS[name].file, name, net, data, given, out)
        print(row(name, known, report), flush=True)
        verdicts.append(f"{name}: {report['verdict']}")
    print(*verdicts, sep="\n")


def defensive(net, data, temperature, epochs, epsilon, out) -> keras.Model:
    """A net of the same architecture, distilled at a temperature from one trained at it."""
    settings = {"temperature": temperature, "epsilon": epsilon, "epochs": epochs}
    settings |= {"optimizer": "adam", "learning_rate": 1e-3}
    teacher = mt.train("natural", net, data, run_dir=out / "teacher", **settings)
    teachers = {"teacher": teacher}
    return mt.distil("defensive", net, data, teachers=teachers, run_dir=out / "net", **settings)


def exported(net, data, formats, out: pathlib.Path) -> pathlib.Path:
    """The version of the export; that of before, if there is one."""
    versions = sorted((out / "export").glob("[0-9]*"))
    # No agreement is asked for: what is lost is what the table is to say.
    return (
        versions[0]
        if versions
        else mt.export(net, out / "export", data, formats, min_agreement=0.0)
    )


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


def row(name: str, known: dict, report: dict) -> str:
    """One row of the table."""
    tried = {key: entry["robust_accuracy"] for key, entry in report["attacks"].items()}
    best = min((value for key, value in tried.items() if key.startswith("transfer_")), default=None)
    own = (tried.get(f"straight_through_{key}", tried.get(key)) for key in ("pgd", "apgd_t"))
    shares = (*own, best, tried["square"], tried["spsa"], report["worst_case"]["robust_accuracy"])
    cells = [
        name,
        f"{known['bytes']:,}",
        f"{known['agreement']:.1%}",
        f"{report['clean']:.1%}",
        *("-" if share is None else f"{share:.1%}" for share in shares),
        report.get("artefact", {}).get("decided_by", "-"),
        f"{report['eight_bit']['robust_accuracy']:.1%}",
        f"{known['milliseconds']:.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
