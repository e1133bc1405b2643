"""The Python API's ten lines against the same run by gin files, and against the quickstart.

    python benchmarks/ten_lines.py [--out=FOLDER] [--epochs=8]

Three fresh interpreters, in turn: the ten lines on the arrays of fashion_mini, each line timed;
`mtard-train` with the same settings, whose weights have to be the same to the bit; `mtard-train` of
the quickstart, with as many epochs. Exits with 1 if a weight differs. Seconds are of the clock and,
since other processes disturb those less, of CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
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
NOW = "now = lambda: (time.perf_counter(), time.process_time())"
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
        print(f"{name:32}{lines[name][0]:8.1f} s{lines[name][1]:8.1f} s of CPU")
    training = [lines[name] for name, _ in LINES if name.startswith(("train", "distil"))]
    trained = [sum(seconds) for seconds in zip(*training, strict=True)]
    same = _train(out, "same.gin", "same")
    each = dict.fromkeys(("clean_teacher", "robust_teacher"), epochs) | {"student": epochs + 1}
    given = [f"--gin={stage}/Stage.epochs = {count}" for stage, count in each.items()]
    quick = _train(out, "quickstart.gin", "quickstart", *given)
    for name, seconds in {
        "ten lines": python,
        "of which training": trained,
        "mtard-train, the same settings": same,
        "mtard-train, quickstart": quick,
    }.items():
        print(f"{name:32}{seconds[0]:8.1f} s{seconds[1]:8.1f} s of CPU")
    for name, other in (("same settings", same), ("quickstart", quick)):
        ratios = (f"{one / another:.2f}" for one, another in zip(trained, other, strict=True))
        print(f"training / mtard-train, {name}: {' and, of CPU, '.join(ratios)}")
    print(f"load {', '.join(f'{one:.1f}' for one in os.getloadavg())}")
    differ = [name for name in ("natural", "trades", "bmtard") if not _equal(out, name)]
    print(f"weights: {'differ in ' + ', '.join(differ) if differ else 'the same to the bit'}")
    return bool(differ)


def _script(numbers: dict) -> str:
    timed = ["import json, time", "seconds = {}", NOW]
    for name, line in LINES:
        timed += ["start = now()", line.format(**numbers)]
        timed.append(f"seconds[{name!r}] = [b - a for a, b in zip(start, now())]")
        if name == "import":
            timed.append(ARRAYS.replace("*WHERE", "('image', 'label'), (28, 28, 1)"))
    timed += ["clean.save('natural.keras'); robust.save('trades.keras')"]
    timed += ["student.save('bmtard.keras'); json.dump(seconds, open('seconds.json', 'w'))"]
    return "\n".join(timed)


def _train(out: pathlib.Path, config: str, name: str, *given: str) -> tuple[float, float]:
    flags = [f"--config={config}", f"--run_dir={out / name}", *given]
    return _run(out, "-m", "mtard_tf.bin.train", *flags)


def _run(out: pathlib.Path, *arguments: str) -> tuple[float, float]:
    """Seconds of the clock and of CPU."""
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    start, before = time.perf_counter(), _cpu()
    subprocess.run(
        [sys.executable, *arguments], cwd=out, env=os.environ | {"PYTHONPATH": root}, check=True
    )
    return time.perf_counter() - start, _cpu() - before


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _equal(out: pathlib.Path, stage: str) -> bool:
    import keras

    paths = out / f"{stage}.keras", out / "same" / stage / "student.keras"
    one, other = (keras.models.load_model(path, compile=False).get_weights() for path in paths)
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


if __name__ == "__main__":
    sys.exit(main())
