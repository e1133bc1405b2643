"""What soft labels that are computed once save a stage of defensive distillation.

    python benchmarks/soft_labels.py --data_dir=... [--images=20000] [--epochs=10] [--turns=3]

Trains the papers' MNIST net at temperature 40 from one teacher, with labels "cached" and "online"
in turns, from the same seed, on the first images of Fashion-MNIST without augmentation, where both
are the same labels; each is a whole stage, the table's making and the files included. Prints
seconds of the clock and of CPU, the ratio of each, and how far the students are apart.

The table costs one pass over the images, and each epoch saves as much, so the ratio falls with the
epochs; the papers have 50. An epoch's own costs (validation, files) are the same for both and
hide it where an epoch is short.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np
from tables import table

from mtard_tf.data import fashion_mnist
from mtard_tf.data.image_data import ImageData
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.defensive_cnn import defensive_cnn
from mtard_tf.optimizers import adam
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.plugins.defensive.defensive import Defensive
from mtard_tf.running.context import RunContext
from mtard_tf.running.stage_run import train
from mtard_tf.schedules import CONSTANT
from mtard_tf.threat import ThreatModel

TEMPERATURE = 40.0


def stage(labels: str, epochs: int) -> Stage:
    """A stage that differs in nothing but its labels."""
    return Stage(
        name=labels,
        distiller=functools.partial(Defensive, temperature=TEMPERATURE, labels=labels),
        model=defensive_cnn,
        teachers={"teacher": "teacher.keras"},
        epochs=epochs,
        optimizer=adam,
        learning_rate=1e-3,
        learning_rate_schedule=CONSTANT,
        validation_attack=None,
        select="last",
    )


def _teacher(folder: pathlib.Path, setting: RunContext) -> keras.Model:
    """Trained for two epochs at the same temperature, so that its labels say something."""
    hard = dataclasses.replace(
        stage("cached", 2),
        distiller=functools.partial(Natural, temperature=TEMPERATURE),
        teachers={},
    )
    train(hard, {}, folder, setting, seed=1)
    return keras.models.load_model(folder / "student.keras", compile=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir")
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()

    data = fashion_mnist(data_dir=given.data_dir)
    train_split = data.train.take(np.arange(given.images))
    few = data.validation.take(np.arange(500))
    data = ImageData(data.name, data.label_names, train_split, few, data.test)
    setting = RunContext(data, ThreatModel(epsilon=0.1))
    seconds: dict[str, list[float]] = {"cached": [], "online": []}
    cpu: dict[str, list[float]] = {labels: [] for labels in seconds}
    students: dict[str, list[np.ndarray]] = {}
    apart = 0.0
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        teacher = _teacher(pathlib.Path(folder) / "teacher", setting)
        for turn in range(given.turns):
            for labels in seconds:
                out = pathlib.Path(folder) / f"{labels}{turn}"
                began = time.perf_counter(), time.process_time()
                result = train(
                    stage(labels, given.epochs), {"teacher": teacher}, out, setting, seed=7
                )
                seconds[labels].append(time.perf_counter() - began[0])
                cpu[labels].append(time.process_time() - began[1])
                student = keras.models.load_model(out / "student.keras", compile=False)
                students[labels] = student.get_weights()
                results[labels] = result["last"]["validation_clean"]
            pairs = zip(students["cached"], students["online"], strict=True)
            apart = max(apart, *(float(np.abs(a - b).max()) for a, b in pairs))
    rows = [
        [
            labels,
            f"{statistics.median(times):.1f}",
            f"{min(times):.1f} to {max(times):.1f}",
            f"{statistics.median(cpu[labels]):.1f}",
            f"{results[labels]:.3f}",
        ]
        for labels, times in seconds.items()
    ]
    table(["labels", "s / stage, median", "range", "CPU s", "validation accuracy"], rows)
    for clock, spent in (("clock", seconds), ("CPU", cpu)):
        ratios = [a / b for a, b in zip(spent["cached"], spent["online"], strict=True)]
        between = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(
            f"cached / online by {clock}, {len(ratios)} pairs: {statistics.median(ratios):.3f}",
            between,
        )
    print(f"largest difference of a weight: {apart:.1e}")


if __name__ == "__main__":
    main()
