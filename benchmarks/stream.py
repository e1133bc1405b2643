"""Memory and speed of training on a set that stays on disk.

    python benchmarks/stream.py [--gibibytes=2] [--steps=300] [--repeats=5] [--dir=DIR]

Writes a synthetic set of 64 x 64 x 3 images (1,000 different ones, again and again) that takes
`--gibibytes` when decoded, then prints a table of measurements, each in a process of its own, all
`--repeats` times in turn:

* the pipeline alone: read, decoded, augmented (crop_flip) and as floats, batches of 128; from a set
  as this project writes it, and from one whose PNG files zlib has packed, as TFDS writes them;
* what a small_cnn student consumes: natural training, and TRADES, on a batch in memory;
* the peak of the resident memory (VmHWM) of a natural training of that many steps and a
  validation, from opening the set on; and of a process that has only imported what trains.

How many times as fast the pipeline is comes from the time of CPU for an image: other processes
disturb it less than images per second. Linux only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZE, DIFFERENT, BATCH = 64, 1_000, 128

COMMON = """
import json, re, sys, time
import numpy as np
folder, steps = sys.argv[1], int(sys.argv[2])
from mtard_tf import bin as binary
binary.import_tensorflow_quietly()
import tensorflow as tf
from mtard_tf.data import tfds, training_batches
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.plugins.adversarial_training.trades import Trades
from mtard_tf.threat import ThreatModel
THREAT = ThreatModel("linf", 8 / 255)

def told(images=0, since=(0, 0), **found):
    if images:
        seconds, cpu = time.perf_counter() - since[0], time.process_time() - since[1]
        found |= {"rate": images / seconds, "cpu": cpu / images * 1e6}
    status = open("/proc/self/status").read()
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 2**20
    print(json.dumps({"peak": peak, **found}))
"""

WRITE = """
import sys, pathlib
import numpy as np
import tensorflow as tf
from mtard_tf.data import writing
folder, count, size, different = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:5])
name, encode = "synthetic", lambda image: writing.png_of(image, writing.ARRAY_RECORD)
if sys.argv[5] == "packed":
    name, encode = "packed", lambda image: tf.io.encode_png(image).numpy()
random = np.random.RandomState(0)
coarse = random.randint(0, 200, (different, size // 8, size // 8, 3))
images = coarse.repeat(8, 1).repeat(8, 2) + random.randint(0, 40, (different, size, size, 3))
images = images.astype(np.uint8)
labels = random.randint(0, 10, different)

def record(image, label):
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encode(image)])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString()

records = [record(*one) for one in zip(images, labels)]
with writing.new_version(folder / name / "1.0.0", name) as partial:
    written = {}
    for role, n in (("train", count), ("test", 5_000)):
        path = partial / f"{name}-{role}.array_record-00000-of-00001"
        with writing.record_writer(str(path), "array_record") as writer:
            for i in range(n):
                writer.write(records[i % different])
        written[role] = writing.Written(n, n * len(records[0]))
    writing.write_metadata(
        partial, name, written, version="1.0.0", image_shape=(size, size, 3),
        label_names=[str(i) for i in range(10)], file_format="array_record",
    )
"""

IMPORTS = COMMON + "told()"

PIPELINE = (
    COMMON
    + """
began = time.perf_counter()
data = tfds(sys.argv[3], folder, stream=True, augmentation="crop_flip")
opened = time.perf_counter() - began
batches = iter(training_batches(data, batch_size=128, epochs=1, seed=0))
for _ in range(20):
    next(batches)
since = time.perf_counter(), time.process_time()
for _ in range(steps):
    next(batches)
told(steps * 128, since, opened=opened, examples=len(data.train))
"""
)

STUDENT = (
    COMMON
    + """
from mtard_tf.testing import tiny_data
kind = {"natural": Natural, "trades": Trades}[sys.argv[3]]
stage = Stage("student", kind, small_cnn, batch_size=128, epochs=1)
images = np.random.RandomState(0).rand(128, 64, 64, 3).astype(np.float32)
labels = np.arange(128, dtype=np.int32) % 10
import dataclasses
from mtard_tf.data import ImageData, Split
split = Split((images * 255).astype(np.uint8), labels)
data = ImageData("held", tuple("0123456789"), split, split, split)
distiller = stage.build(data, {}, THREAT, 0)
one = tf.data.Dataset.from_tensors((images, labels, np.arange(128)))
distiller.fit(one.repeat(2), verbose=0, shuffle=False)
since = time.perf_counter(), time.process_time()
distiller.fit(one.repeat(steps), verbose=0, shuffle=False)
told(steps * 128, since)
"""
)

TRAINING = (
    COMMON
    + """
import pathlib
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.processes.preemption import Preempted, Preemption
from mtard_tf.running.context import RunContext
from mtard_tf.running.stage_run import train

class Cut(Preemption):
    left = steps
    @property
    def received(self):
        Cut.left -= 1
        return Cut.left < 0
    @received.setter
    def received(self, value):
        pass

data = tfds("synthetic", folder, stream=True, augmentation="crop_flip")
stage = Stage("student", Natural, small_cnn, batch_size=128, epochs=1, validation_attack=None)
try:
    context = RunContext(data, THREAT, preemption=Cut())
    train(stage, {}, pathlib.Path(folder, "student"), context, seed=0)
except Preempted:
    pass
Evaluator(small_cnn(data.image_shape, 10), THREAT).clean(data.validation)
told(steps=steps - max(Cut.left, 0))
"""
)


def child(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def measured(code: str, *arguments: object) -> dict:
    return json.loads(child(code, *arguments).splitlines()[-1])


NATURAL = "`small_cnn`, natural training"
ROWS = (  # what it is called, what measures it, its number of steps (None: --steps), its argument
    ("the pipeline alone", PIPELINE, None, "synthetic"),
    ("the pipeline, PNG packed by zlib", PIPELINE, None, "packed"),
    (NATURAL, STUDENT, 20, "natural"),
    ("`small_cnn`, TRADES", STUDENT, 5, "trades"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gibibytes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dir", help="keep the sets here; default a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(args.dir or scratch)
        count = int(args.gibibytes * 2**30 / SIZE**2 / 3) + 1
        for name, images in (("synthetic", count), ("packed", min(count, 50_000))):
            if not (folder / name).exists():
                child(WRITE, folder, images, SIZE, DIFFERENT, name)
        found: dict[str, list[dict]] = {name: [] for name, *_ in ROWS}
        training, imports = [], []
        for _ in range(args.repeats):
            for name, code, steps, argument in ROWS:
                found[name].append(measured(code, folder, steps or args.steps, argument))
            training.append(measured(TRAINING, folder, args.steps))
            imports.append(measured(IMPORTS, folder, 0))
        print(machine())
        table(found)
        opened = found[ROWS[0][0]][0]
        decoded = opened["examples"] * SIZE**2 * 3 / 2**30
        print(f"training: {opened['examples']:,} images, {decoded:.2f} GiB decoded", end="; ")
        print(f"opened in {spread(found[ROWS[0][0]], 'opened', '.1f')} s")
        print(f"training of {args.steps} steps of {BATCH}: peak of memory", end=" ")
        print(f"{spread(training, 'peak', '.2f')} GiB; imports alone", end=" ")
        print(f"{spread(imports, 'peak', '.2f')} GiB")


def table(found: dict[str, list[dict]]) -> None:
    print("| | images/s | us of CPU for an image | natural training takes, times |")
    print("|---|---|---|---|")
    student = [one["cpu"] for one in found[NATURAL]]
    for name, runs in found.items():
        for one, natural in zip(runs, student, strict=True):
            one["times"] = natural / one["cpu"]
        told = (
            spread(runs, *form) for form in (("rate", ",.0f"), ("cpu", ",.0f"), ("times", ".1f"))
        )
        print(f"| {name} | {' | '.join(told)} |")


def spread(runs: list[dict], key: str, form: str) -> str:
    """The median, and the least and the greatest."""
    values = [run[key] for run in runs]
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({least:{form}} to {most:{form}})"


def machine() -> str:
    model = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    when = datetime.date.today().isoformat()
    return (
        f"{when}, {os.cpu_count()} cores, {model[1] if model else 'processor unknown'}, load {load}"
    )


if __name__ == "__main__":
    main()
