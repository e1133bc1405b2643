"""Steps of methods on two replicas against one device, for `distribution_test.py`.

    python distributed_methods.py METHODS

Prints, for each of the methods (joined by commas; `NAME+` matches gradients as well, `NAME^` climbs
W-Robust), the largest difference of weights and losses over 4 steps of uneven batches, and how far
the weights moved.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from mtard_tf import registry
from mtard_tf.attacks.pgd import PGD
from mtard_tf.distribute import strategies
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.optimizers import sgd
from mtard_tf.running import batches
from mtard_tf.schedules import CONSTANT
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel

BATCH, STEPS, EPOCHS = 8, 2, 2
DATA = tiny_data(BATCH * STEPS - 3, 3, 3)  # the last batch of an epoch has 5 images


def _net(shape, classes, seed=None):
    if seed is not None:
        keras.utils.set_random_seed(seed)
    return small_cnn(shape, classes, widths=(4,), dense=8)


class Losses(keras.callbacks.Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(float(np.ravel(logs["loss"])[0]))


def steps(strategy, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The weights before and after, and the losses."""
    method = registry.target("distillers", name.rstrip("+^"))
    settings = {} if name == "n_fgsm" else {"attack": PGD(num_steps=2)}
    if name.endswith("^"):
        settings["balance_target"] = "w_robust"
    stage = Stage(
        "student",
        lambda *args, **kwargs: method(*args, **kwargs, **settings),
        _net,
        {role: f"{role}.keras" for role in method.teacher_views},
        epochs=EPOCHS,
        batch_size=BATCH,
        optimizer=sgd,
        learning_rate=0.05,
        learning_rate_schedule=CONSTANT,
        gradient_matching=float(name.endswith("+")),
    )
    with strategy.scope():
        teachers = {role: _net((8, 8, 3), 3, 4) for role in method.teacher_views}
        distiller = stage.build(DATA, teachers, ThreatModel("linf", 0.1), 7)
    losses, started = Losses(), _weights(distiller)
    for epoch in range(EPOCHS):
        rows = batches.training_data(
            strategy, DATA, batch_size=BATCH, epoch=epoch, seed=7, start_step=STEPS * epoch
        )
        distiller.fit(rows, steps_per_epoch=STEPS, shuffle=False, verbose=0, callbacks=[losses])
        distiller.validated({"validation_w_robust": 0.5})
    return started, _weights(distiller), np.array(losses.values)


def _weights(distiller) -> np.ndarray:
    return np.concatenate([v.numpy().ravel() for v in distiller.student.variables])


def main() -> None:
    one, two = strategies.create("one_device"), strategies.create("mirrored", devices=2)
    for name in sys.argv[1].split(","):
        started, ours, losses = steps(one, name)
        _, theirs, others = steps(two, name)
        differs = max(np.abs(ours - theirs).max(), np.abs(losses - others).max())
        print(f"{name} {differs:.2e} {np.abs(ours - started).max():.2e}", flush=True)


if __name__ == "__main__":
    main()
