"""One measurement of `scaling.py`, in a process of its own; prints one line of JSON.

python scaling_measure.py SETTING      (JSON; `scaling.DEFAULTS` names its keys)
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import sys
import tempfile
import time
from typing import Any

import keras
import numpy as np

from mtard_tf.attacks.pgd import PGD
from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.data.batches import training_tensors
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.distribute import strategies
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.optimizers import sgd
from mtard_tf.plugins.multi_teacher.bmtard import BMTARD
from mtard_tf.running import batches, checkpoints
from mtard_tf.threat import ThreatModel


def build(setting: dict[str, Any], examples: int):
    workers = setting["workers"].split(",") if setting["workers"] else ()
    strategy = strategies.create(
        setting["strategy"],
        devices=setting["devices"],
        workers=workers,
        index=setting["index"] if workers else None,
    )
    numbers = np.random.RandomState(0)
    split = Split(
        numbers.randint(0, 256, (examples, 28, 28, 1), np.uint8),
        numbers.randint(0, 10, examples).astype(np.int32),
    )
    data = ImageData("random", tuple("0123456789"), split, split.take(np.arange(100)), split)
    roles = [f"teacher{i}" for i in range(setting["teachers"])]
    views = {role: ("clean", "adversarial")[i % 2] for i, role in enumerate(roles)}

    def net(shape, classes):
        return small_cnn(shape, classes, batch_normalization=True)

    def distiller(*args, **kwargs):
        attack = PGD(num_steps=setting["attack_steps"])
        return BMTARD(*args, attack=attack, teacher_views=views, **kwargs)

    stage = Stage(
        "student",
        distiller,
        net,
        {role: f"{role}.keras" for role in roles},
        epochs=1,
        batch_size=setting["batch"],
        optimizer=sgd,
        precision=setting["precision"],
    )
    with strategy.scope():
        teachers = {role: net((28, 28, 1), 10) for role in roles}
        made = stage.build(data, teachers, ThreatModel("linf", 0.1), 0)

    tensors = training_tensors(data)

    def of_epoch(epoch: int):
        return batches.training_data(
            strategy,
            data,
            batch_size=setting["batch"],
            epoch=epoch,
            seed=0,
            start_step=epoch * setting["steps"],
            tensors=tensors,
        )

    return made, of_epoch, data


def timer():
    class Timer(keras.callbacks.Callback):
        """When each step ended."""

        def __init__(self) -> None:
            super().__init__()
            self.times: list[float] = []
            self.memory: list[float] = []

        def on_train_batch_end(self, batch, logs=None):
            self.times.append(time.perf_counter())
            self.memory.append(resident())

    return Timer()


def resident() -> float:
    """MiB that this process holds now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(setting: dict[str, Any]) -> dict[str, float]:
    made, of_epoch, data = build(setting, setting["batch"] * setting["steps"])
    clock = timer()
    for epoch in range(setting["epochs"]):
        made.fit(
            of_epoch(epoch),
            steps_per_epoch=setting["steps"],
            shuffle=False,
            verbose=0,
            callbacks=[clock],
        )
    result = {"seconds": float(np.median(np.diff(clock.times)[3:])), "peak": peak()}
    if setting.get("checkpoint"):
        with tempfile.TemporaryDirectory() as folder:
            kept = checkpoints.Checkpoints(pathlib.Path(folder))
            times = []
            for step in range(5):
                started = time.perf_counter()
                kept.save(checkpoints.State(step, checkpoints.values(made), {}))
                times.append(time.perf_counter() - started)
        result["checkpoint"] = float(np.median(times))
    if setting.get("memory"):
        result |= {"early": clock.memory[199], "late": clock.memory[-1]}
        evaluator = Evaluator(made.student, made.context.threat)
        attack = PGD(num_steps=5)
        evaluator.attacked(attack, data.train, 500)
        result["evaluated_500"] = resident()
        evaluator.attacked(attack, data.train, 5000)
        result["evaluated_5000"] = resident()
        evaluator.attacked(attack, data.train, 5000)
        result["again_5000"] = resident()
    return result


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
