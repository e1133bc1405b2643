"""The Python API's ten lines against the same run by gin files, and against the quickstart.

    python benchmarks/ten_lines.py [--out=FOLDER] [--epochs=8]

Three fresh interpreters, in turn: the ten lines on the arrays of fashion_mini, each line timed;
`mtard-train` with the same settings, whose weights have to be the same to the bit; `mtard-train` of
the quickstart. Exits with 1 if a weight differs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

# The arrays of the set, in its order: training images before validation was carved from them.
ARRAYS = """
from mtard_tf.data import named_sets, tfds_splits
import tensorflow_datasets

builder = tensorflow_datasets.builder_from_directory(str(named_sets.FASHION_MINI))
train, test = (tfds_splits.read_split(builder, name, *WHERE) for name in ("train", "test"))
x_train, y_train, x_test, y_test = train.images, train.labels, test.images, test.labels
names = builder.info.features["label"].names
"""
# (what the line is called, the line)
LINES = (
    ("import", "import mtard_tf as mt"),
    ("from_arrays", "data = mt.ImageData.from_arrays(x_train, y_train, x_test, y_test, names)"),
    ("small_cnn", "net = mt.models.small_cnn(data.image_shape, data.num_classes)"),
    ("train natural", "clean = mt.train('natural', net, data, epochs={epochs})"),
    ("train trades", "robust = mt.train('trades', net, data, epsilon=0.1, epochs={epochs})"),
    (
        "distil bmtard",
        "student = mt.distil('bmtard', net, data, teachers={{'clean': clean, 'robust': robust}}, "
        "epsilon='8/255', epochs={student_epochs}, run_dir='run')",
    ),
    ("audit", "report = mt.audit(student, data, epsilon='8/255', suite='quick')"),
    ("export", "mt.export(student, 'export/student', data)"),
)
GIN = """
Experiment.dataset = @datasets.fashion_mini
Experiment.epsilon = 0.1
Experiment.stages = ('natural', 'trades', 'bmtard')
Stage.optimizer = @optimizers.adam
Stage.learning_rate = 2e-3
Stage.learning_rate_schedule = @schedules.Constant()
Stage.model = @models.small_cnn
Stage.epochs = {epochs}
natural/Stage.distiller = @distillers.natural
natural/Stage.validation_attack = None
trades/Stage.distiller = @distillers.trades
trades/Stage.epsilon_schedule = @trades/schedules.Warmup()
trades/schedules.Warmup.epochs = {warmup}
bmtard/Stage.distiller = @distillers.bmtard
bmtard/Stage.epsilon = '8/255'
bmtard/Stage.epochs = {student_epochs}
bmtard/Stage.epsilon_schedule = @bmtard/schedules.Warmup()
bmtard/schedules.Warmup.epochs = {student_warmup}
bmtard/Stage.teachers = {{'clean': 'natural', 'robust': 'trades'}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, help="kept; default a temporary folder")
    parser.add_argument("--epochs", type=int, default=8, help="of a teacher; the student one more")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = (given.out or pathlib.Path(scratch)).absolute()
        out.mkdir(parents=True, exist_ok=True)
        return _measure(out, given.epochs)


def _measure(out: pathlib.Path, epochs: int) -> int:
    numbers = {"epochs": epochs, "student_epochs": epochs + 1}
    numbers |= {"warmup": 0.25 * epochs, "student_warmup": 0.25 * (epochs + 1)}
    (out / "same.gin").write_text(GIN.format(**numbers))
    python = _run(out, "-c", _script(numbers))
    lines = json.loads((out / "seconds.json").read_text())
    for name, _ in LINES:
        print(f"{name:16}{lines[name]:8.1f} s")
    trained = sum(lines[name] for name, _ in LINES if name.startswith(("train", "distil")))
    same = _train(out, "same.gin", "same")
    quick = _train(out, "quickstart.gin", "quickstart")
    print(f"{'ten lines':36}{python:8.1f} s, of which training {trained:.1f} s")
    print(f"{'mtard-train, the same settings':36}{same:8.1f} s")
    print(f"{'mtard-train, quickstart':36}{quick:8.1f} s")
    print(f"training / mtard-train, same settings: {trained / same:.2f}")
    print(f"training / mtard-train, quickstart:    {trained / quick:.2f}")
    differ = [name for name in ("natural", "trades", "bmtard") if not _equal(out, name)]
    print(f"weights: {'differ in ' + ', '.join(differ) if differ else 'the same to the bit'}")
    return bool(differ)


def _script(numbers: dict) -> str:
    timed = ["import json, os, time", "seconds = {}", ""]
    for name, line in LINES:
        timed += ["start = time.perf_counter()", line.format(**numbers)]
        timed.append(f"seconds[{name!r}] = time.perf_counter() - start")
        if name == "import":
            timed.append(ARRAYS.replace("*WHERE", "('image', 'label'), (28, 28, 1)"))
    timed += ["clean.save('natural.keras'); robust.save('trades.keras')"]
    timed += ["student.save('bmtard.keras'); json.dump(seconds, open('seconds.json', 'w'))"]
    return "\n".join(timed)


def _train(out: pathlib.Path, config: str, name: str) -> float:
    flags = [f"--config={config}", f"--run_dir={out / name}"]
    return _run(out, "-m", "mtard_tf.bin.train", *flags)


def _run(out: pathlib.Path, *arguments: str) -> float:
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], cwd=out, env=os.environ | {"PYTHONPATH": root}, check=True
    )
    return time.perf_counter() - start


def _equal(out: pathlib.Path, stage: str) -> bool:
    import keras

    paths = out / f"{stage}.keras", out / "same" / stage / "student.keras"
    one, other = (keras.models.load_model(path, compile=False).get_weights() for path in paths)
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


if __name__ == "__main__":
    sys.exit(main())
