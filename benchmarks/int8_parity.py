"""Our reading of int8 files (the straight-through copy) against LiteRT's interpreter.

    python benchmarks/int8_parity.py [--dataset=fashion_mini] [--epochs=3] [--out=FOLDER]

Trains each net for a few epochs on labels alone, exports it as `litert_int8`, and prints one row of
each: its accuracy, and of the first test images on how many both give one label, and which share of
the int8 logits is the same and at most one step apart. With `--out` nets are not trained again.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

import numpy as np
import tensorflow as tf
from tables import table

import mtard_tf as mt
from mtard_tf.commands.datasets import dataset
from mtard_tf.data.batches import to_float
from mtard_tf.exporting.formats import FORMATS, INT8
from mtard_tf.runtimes import loading

NETS = ("small_cnn", "resnet20", "mobilenet_v2")
HEAD = (
    "net",
    "parameters",
    "clean, interpreter",
    "labels equal",
    "logits equal",
    "within one step",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="fashion_mini")
    parser.add_argument("--data_dir")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--nets", nargs="+", default=list(NETS))
    parser.add_argument("--out", type=pathlib.Path)
    given = parser.parse_args()
    data = dataset(given.dataset, given.data_dir)
    out = given.out or pathlib.Path(tempfile.mkdtemp(prefix="int8-"))
    table(HEAD, [row(name, data, given, out / name) for name in given.nets])


def row(name: str, data, given, out: pathlib.Path) -> list[str]:
    """Trains, exports and compares one net."""
    net = getattr(mt.models, name)(data.image_shape, data.num_classes)
    settings = {"optimizer": "adam", "learning_rate": 2e-3, "validation_attack": None}
    net = mt.train("natural", net, data, epochs=given.epochs, run_dir=out / "run", **settings)
    folder = mt.export(net, out / "export", data, [INT8], min_agreement=0.0)
    file = loading.load(folder / FORMATS[INT8].file, data.image_shape)
    copy = tf.function(file.straight_through())
    split = data.labelled("test", given.examples)
    parts = [to_float(split.images[at : at + 100]) for at in range(0, len(split), 100)]
    ours = np.concatenate([copy(part).numpy() for part in parts])
    theirs = np.concatenate([file.answer(np.asarray(part)) for part in parts])
    steps = np.rint(np.abs(ours - theirs) / file.output.scale[0])
    labels = theirs.argmax(axis=1)
    return [
        name,
        f"{net.count_params():,}",
        f"{np.mean(labels == split.labels):.1%}",
        f"{np.sum(ours.argmax(axis=1) == labels)} of {len(labels)}",
        f"{np.mean(steps == 0):.2%}",
        f"{np.mean(steps <= 1):.2%}",
    ]


if __name__ == "__main__":
    main()
