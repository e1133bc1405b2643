"""Steps of `bmtard` under a strategy, for `distribution_test.py`: run once by each worker.

    python distributed_steps.py OUT VARIANTS STRATEGY DEVICES [WORKERS INDEX] [--without_shim=NAME]
        [--one_device=OUT]

Writes, for each of the variants (joined by commas), what every step left (balance state, on each
local replica), the last weights and an evaluation to OUT. `--without_shim` leaves one of
`keras_shims` out. `--one_device` does the same once more on one device, in the same process.
"""

from __future__ import annotations

import dataclasses
import os
import sys

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from mtard_tf.auditing.evaluator import Evaluator
from mtard_tf.distiller.averaging import EMA
from mtard_tf.distiller.fit_data import FitModel
from mtard_tf.distiller.keras_shims import ShimmedModel
from mtard_tf.distribute import strategies
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.optimizers import sgd
from mtard_tf.plugins.multi_teacher.bmtard import BMTARD
from mtard_tf.running import batches
from mtard_tf.schedules import CONSTANT
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

BALANCE = ("balance_weights", "temperatures", "first_losses")


class Trace(keras.callbacks.Callback):
    """What each step left on each local replica."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list] = {name: [] for name in (*BALANCE, "loss")}

    def on_train_batch_end(self, batch, logs=None):
        self.rows["loss"].append(float(np.ravel(logs["loss"])[0]))
        for name in BALANCE:
            value = getattr(self.model, name).value
            local = getattr(value, "values", [value])
            self.rows[name].append([np.asarray(v) for v in local])


def main() -> None:
    options = [a for a in sys.argv if a.startswith("--")]
    out, variants, name, devices, *cluster = [a for a in sys.argv[1:] if not a.startswith("--")]
    if "--without_shim=build" in options:
        del FitModel._maybe_symbolic_build
    if "--without_shim=logs" in options:
        ShimmedModel.fit_logs = lambda self, logs: logs
    workers, index = (cluster[0].split(","), int(cluster[1])) if cluster else ((), None)
    strategy = strategies.create(name, devices=int(devices), workers=workers, index=index)
    runs = {out: strategy}
    runs |= {o.split("=")[1]: strategies.create() for o in options if o.startswith("--one_device")}
    for path, strategy in runs.items():
        result = {}
        for variant in variants.split(","):
            found = steps(strategy, variant)
            result |= {f"{variant}/{key}": value for key, value in found.items()}
        np.savez(path, **result)


def steps(strategy, variant: str) -> dict[str, np.ndarray]:
    """20 steps of a variant, of those that `distribution_test.ALL` names."""
    batch_norm = variant in ("batch_norm", "synchronized", "extras_synchronized")
    # 5 steps an epoch; uneven: the last batch of an epoch does not divide by the replicas.
    images = tiny_data(75 if variant == "uneven" else 80, 14, 6)
    stage = Stage(
        "student",
        BMTARD,
        lambda shape, classes: small_cnn(
            shape, classes, widths=(4, 4), dense=8, batch_normalization=batch_norm
        ),
        {"clean": "a.keras", "robust": "b.keras"},
        epochs=4,
        batch_size=16,
        optimizer=sgd,
        learning_rate=0.05,
        learning_rate_schedule=CONSTANT,
        synchronized_batch_norm=variant.endswith("synchronized"),
    )
    if variant.startswith("extras"):
        stage = dataclasses.replace(
            stage, weight_perturbation=0.02, weight_perturbation_start=1, averaging=EMA(decay=0.9)
        )
    with strategy.scope():
        teachers = {}
        for seed, role in enumerate(("clean", "robust")):
            keras.utils.set_random_seed(seed)
            teachers[role] = small_cnn((8, 8, 3), 3, widths=(4, 4), dense=8)
        distiller = stage.build(images, teachers, ThreatModel("linf", 0.1), 7)
    trace = Trace()
    for epoch in range(stage.epochs):
        distiller.fit(
            batches.training_data(
                strategy,
                images,
                batch_size=stage.batch_size,
                epoch=epoch,
                seed=7,
                start_step=5 * epoch,
            ),
            initial_epoch=epoch,
            epochs=epoch + 1,
            steps_per_epoch=5,
            shuffle=False,
            verbose=0,
            callbacks=[trace],
        )
    evaluator = Evaluator(
        distiller.student, distiller.context.threat, batch_size=4, strategy=strategy
    )
    kept = [
        *distiller.student.variables,
        *(distiller.averages.values if distiller.averages else ()),
    ]
    result = {f"w{i:03d}": np.asarray(v.numpy()) for i, v in enumerate(kept)}
    result |= {key: np.asarray(rows) for key, rows in trace.rows.items()}
    result["clean"] = evaluator.clean(images.validation)
    result["robust"] = evaluator.attacked(stage.validation_attack, images.validation)
    return result


if __name__ == "__main__":
    main()
