"""Why synchronised BatchNorm on two replicas ends in other weights than one device.

    python benchmarks/synchronised_batch_norm.py

A small net with Keras' synchronised BatchNormalization takes 20 steps of plain SGD on one device
and on two logical CPU devices, in float32 and in float64, on clean images and on those of a
ten-step sign attack. Were statistics, gradients or running averages of two replicas others than
those of one device, float64 would show it as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from tables import table

BATCH, STEPS, CLASSES = 16, 20, 3
EPSILON, STEP_SIZE = 0.1, 0.025


def net(seed: int = 3) -> keras.Model:
    keras.utils.set_random_seed(seed)
    images = x = keras.Input((8, 8, 3))
    for _ in range(2):
        x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(synchronized=True)(x))
    return keras.Model(images, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x)))


def loss(model: keras.Model, x: tf.Tensor, y: tf.Tensor, training: bool) -> tf.Tensor:
    logits = model(x, training=training)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    return tf.reduce_sum(losses) / BATCH


def attacked(model: keras.Model, x: tf.Tensor, y: tf.Tensor, steps: int) -> tf.Tensor:
    perturbed = x
    for _ in range(steps):
        with tf.GradientTape() as tape:
            tape.watch(perturbed)
            value = loss(model, perturbed, y, training=False)
        moved = perturbed + STEP_SIZE * tf.sign(tape.gradient(value, perturbed))
        perturbed = tf.clip_by_value(tf.clip_by_value(moved, x - EPSILON, x + EPSILON), 0, 1)
    return perturbed


def shared(strategy: tf.distribute.Strategy, rows: np.ndarray) -> tf.Tensor:
    """Equal shares of `rows`, one for each replica."""
    shares = np.split(rows, strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda replica: tf.constant(shares[replica.replica_id_in_sync_group])
    )


def train(strategy: tf.distribute.Strategy, attack_steps: int) -> list[np.ndarray]:
    """The weights after `STEPS` steps, the batch divided among the strategy's replicas."""
    rng = np.random.default_rng(0)
    images = rng.random((5 * BATCH, 8, 8, 3)).astype(keras.config.floatx())
    labels = rng.integers(0, CLASSES, len(images))
    with strategy.scope():
        model = net()

    def one(x: tf.Tensor, y: tf.Tensor) -> None:
        x = attacked(model, x, y, attack_steps)
        with tf.GradientTape() as tape:
            value = loss(model, x, y, training=True)
        gradients = tape.gradient(value, model.trainable_variables)
        gradients = tf.distribute.get_replica_context().all_reduce("sum", gradients)
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.value.assign_sub(0.05 * gradient)

    step: Callable = tf.function(lambda x, y: strategy.run(one, args=(x, y)))
    for i in range(STEPS):
        rows = np.arange(BATCH) + BATCH * (i % 5)
        step(*(shared(strategy, values[rows]) for values in (images, labels)))
    return [np.asarray(variable.numpy()) for variable in model.trainable_variables]


def apart(precision: str) -> list[list[object]]:
    """The largest difference of a weight between one and two replicas, without and with attack."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    keras.config.set_floatx(precision)
    keras.config.set_dtype_policy(precision)
    rows: list[list[object]] = []
    for attack_steps in (0, 10):
        one, two = (
            train(tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(n)]), attack_steps)
            for n in (1, 2)
        )
        largest = max(np.abs(a - b).max() for a, b in zip(one, two, strict=True))
        rows.append([precision, attack_steps, float(largest)])
    return rows


def main() -> None:
    # A process each: collectives keep the dtype that they were first called with.
    rows = []
    for precision in ("float32", "float64"):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            rows += pool.submit(apart, precision).result()
    table(["", "steps of the attack", "weights apart after 20 steps"], rows, ".1e")


if __name__ == "__main__":
    main()
