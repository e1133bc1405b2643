"""The formats of an exported student side by side, as a Markdown table.

    mtard-export --run_dir=runs/quickstart --format=saved_model --format=litert --format=onnx \\
        --format=litert_float16 --format=litert_int8
    python benchmarks/formats.py runs/quickstart student [--examples=500] [--square=5000]

Bytes, agreement and latency are what the export measured. Accuracies are of the first test images,
all attacks at floor(255 epsilon)/255 and on whole levels: `transfer` are images of PGD, CW and
APGD-T on the float student, pushed on past its boundary; `own` are images of the same attacks on
the file's own gradients (a straight-through copy of int8; what else has none in a file has the
student's); Square asks the file itself. The worst case is over all of them.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import tensorflow as tf
from tables import table

from mtard_tf.attacks import levels
from mtard_tf.attacks.apgd import APGDTargeted
from mtard_tf.attacks.margin import CWInf
from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.pushed import Pushed
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.attacks.square import Square
from mtard_tf.config import gin_files
from mtard_tf.data.batches import to_float
from mtard_tf.exporting import export
from mtard_tf.exporting.formats import FORMATS
from mtard_tf.models.folding import FoldedInference
from mtard_tf.running import run_directory
from mtard_tf.runtimes import loading

BATCH = 100


def _floor(threat):
    """The threat model of whole levels within another, Linf."""
    return type(threat)(threat.norm, levels.whole(threat) / 255)


def _attacked(model_fn, attack, split, threat) -> np.ndarray:
    """uint8 images of whole levels, past the boundary of `model_fn`."""
    pushed = Pushed(attack, on_levels=True)

    @tf.function(reduce_retracing=True)
    def run(images, labels, ids):
        return pushed(model_fn, images, labels, threat=threat, seeds=image_seeds(0, ids))

    parts = [
        run(to_float(split.images[i : i + BATCH]), split.labels[i : i + BATCH], places)
        for i in range(0, len(split), BATCH)
        for places in [np.arange(i, min(i + BATCH, len(split)))]
    ]
    return np.round(np.concatenate(parts) * 255).astype(np.uint8)


def _right(model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    parts = [model(to_float(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    return np.argmax(np.concatenate(parts), axis=1) == labels


def _own_gradients(model, student):
    if hasattr(model, "straight_through") and "int8" in model.kind:
        return model.straight_through()
    return student


def row(folder: pathlib.Path, name: str, known: dict, student, split, threat, args) -> list:
    path = folder / FORMATS[name].file
    model = loading.load(path, split.images.shape[1:])
    attacks = {"pgd": PGD(num_steps=50), "cw": CWInf(num_steps=50), "apgd_t": APGDTargeted()}
    right = {"clean": _right(model, split.images, split.labels)}
    for what, net in (("transfer", student), ("own", _own_gradients(model, student))):
        for attack in attacks.values():
            images = _attacked(net, attack, split, threat)
            stands = _right(model, images, split.labels)
            right[what] = right.get(what, stands) & stands
    square = Square(num_queries=args.square)
    images = _attacked(lambda x: tf.cast(model(x), tf.float32), square, split, threat)
    right["square"] = _right(model, images, split.labels)
    worst = np.all(list(right.values()), axis=0)
    shares = [f"{100 * x.mean():.1f}" for x in (*right.values(), worst)]
    size = [f"{known['bytes']:,}", f"{known['agreement']:.1%}", f"{known['difference']:.2g}"]
    return [name, *size, *shares, f"{known['milliseconds']:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=pathlib.Path)
    parser.add_argument("stage")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--square", type=int, default=5000)
    args = parser.parse_args()
    experiment = gin_files.of_run(args.run_dir)
    split = experiment.dataset().labelled("test", args.examples)
    versions = [p for p in (args.run_dir / "export" / args.stage).iterdir() if p.name.isdecimal()]
    folder = max(versions, key=lambda path: int(path.name))
    student = FoldedInference(run_directory.load_student(args.run_dir, args.stage))()
    threat = _floor(experiment.threat)
    head = ["format", "bytes", "same label", "logit", "clean", "transfer", "own", "square"]
    rows = [
        row(folder, name, known, student, split, threat, args)
        for name, known in export.known_formats(folder).items()
    ]
    table([*head, "worst case", "ms"], rows)


if __name__ == "__main__":
    main()
