"""Memory and speed of training on a set that stays on disk.

    python benchmarks/stream.py [--gibibytes=2] [--steps=300] [--dir=DIR]

Writes a synthetic set of 64 x 64 x 3 images (1,000 different ones, again and again) that takes
`--gibibytes` when decoded, then measures, each in a process of its own:

* the pipeline alone: read, decoded, augmented (crop_flip) and as floats, batches of 128;
* what a small_cnn student consumes: natural training, and TRADES, on a batch in memory; both with
  the time of CPU per image, which other processes disturb less;
* the peak of the resident memory (VmHWM) of a natural training of that many steps and a
  validation, from opening the set on; and of a process that has only imported what trains.

Linux only.
"""

from __future__ import annotations

import argparse
import json
import pathlib
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
folder, count, size, different = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
random = np.random.RandomState(0)
coarse = random.randint(0, 200, (different, size // 8, size // 8, 3))
images = coarse.repeat(8, 1).repeat(8, 2) + random.randint(0, 40, (different, size, size, 3))
images = images.astype(np.uint8)
labels = random.randint(0, 10, different)

def record(image, label):
    png = tf.io.encode_png(image).numpy()
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString()

records = [record(*one) for one in zip(images, labels)]
name = "synthetic"
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
data = tfds("synthetic", folder, stream=True, augmentation="crop_flip")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gibibytes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--dir", help="keep the set here; default a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(args.dir or scratch)
        if not (folder / "synthetic").exists():
            count = int(args.gibibytes * 2**30 / SIZE**2 / 3) + 1
            child(WRITE, folder, count, SIZE, DIFFERENT)
        pipeline = measured(PIPELINE, folder, args.steps)
        count, opened = pipeline["examples"], pipeline["opened"]
        decoded = count * SIZE**2 * 3 / 2**30
        print(f"training: {count:,} images, {decoded:.2f} GiB decoded; opened in {opened:.1f} s")
        print(
            f"pipeline alone: {pipeline['rate']:,.0f} images/s, {pipeline['cpu']:.0f} us of CPU "
            f"each, peak {pipeline['peak']:.2f} GiB"
        )
        for kind, steps in (("natural", 20), ("trades", 5)):
            student = measured(STUDENT, folder, steps, kind)
            by_time = pipeline["rate"] / student["rate"]
            by_cpu = student["cpu"] / pipeline["cpu"]
            print(
                f"small_cnn, {kind}: {student['rate']:,.0f} images/s, {student['cpu']:.0f} us of "
                f"CPU each; the pipeline is {by_time:.1f} times as fast, by CPU {by_cpu:.1f} times"
            )
        done = measured(TRAINING, folder, args.steps)
        print(
            f"training of {done['steps']} steps of {BATCH}: peak {done['peak']:.2f} GiB; imports "
            f"alone {measured(IMPORTS, folder, 0)['peak']:.2f} GiB"
        )


if __name__ == "__main__":
    main()
