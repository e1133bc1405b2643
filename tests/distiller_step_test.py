"""A training step on batches that do not fill the attack's shards, and with BatchNorm."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.attacks import sharding
from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.attacks.sharding import shards
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.losses import cross_entropy
from mtard_tf.models.small_cnn import small_cnn
from mtard_tf.optimizers import sgd
from mtard_tf.plugins.adversarial_training.pgd_at import PGDAdversarialTraining
from mtard_tf.plugins.multi_teacher.bmtard import BMTARD
from mtard_tf.threat import ThreatModel


def _net():
    return small_cnn((8, 8, 1), 3, widths=(4, 4), dense=8, batch_normalization=True)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_short_batch_trains(batch):
    distiller = BMTARD(
        _net(), {"clean": _net(), "robust": _net()}, context=TrainingContext(attack_shards=2)
    )
    distiller.compile(optimizer=sgd(0.1), jit_compile=False)
    images = tf.random.stateless_uniform([4, 8, 8, 1], [0, 1])
    step = tf.function(
        distiller.train_step,
        input_signature=[
            (
                tf.TensorSpec([None, 8, 8, 1]),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.int64),
            )
        ],
        autograph=False,
    )
    logs = step((images[:batch], tf.zeros([batch], tf.int32), tf.range(batch, dtype=tf.int64)))
    assert np.isfinite(logs["loss"])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_shards_cover_the_batch_in_order_and_none_is_empty(count, parts):
    rows = np.arange(count)
    slices = shards(tf.constant(count), parts)
    taken = [rows[int(s.start) : int(s.stop)] for s in slices]
    assert all(len(part) for part in taken)
    np.testing.assert_array_equal(np.concatenate(taken)[:count], rows)


def test_a_step_with_batchnorm_equals_plain_keras():
    """Attack in inference mode, adversarial pass before the clean one, each a batch of its own."""
    keras.utils.set_random_seed(1)
    nets = [_net() for _ in range(4)]
    student, plain, clean, robust = nets
    plain.set_weights(student.get_weights())
    brightness = tf.reshape(tf.range(6.0) / 6, [6, 1, 1, 1])
    images = brightness * tf.random.stateless_uniform([6, 8, 8, 1], [2, 3])
    labels, ids = tf.constant([0, 1, 2, 0, 1, 2]), tf.range(6, dtype=tf.int64)
    threat = ThreatModel(epsilon=0.1)
    distiller = BMTARD(
        student, {"clean": clean, "robust": robust}, context=TrainingContext(threat, seed=4)
    )
    distiller.compile(optimizer=sgd(0.1), jit_compile=False)
    distiller.train_step((images, labels, ids))

    adversarial = PGD(num_steps=10, start="gaussian")(
        lambda x: plain(x, training=False),
        images,
        labels,
        threat=threat,
        seeds=image_seeds(4, ids),
    )
    with tf.GradientTape() as tape:
        loss = 0.0
        for teacher, view in ((robust, adversarial), (clean, images)):
            q = tf.nn.softmax(teacher(view, training=False))
            log_p = tf.nn.log_softmax(plain(view, training=True))
            loss -= 0.5 * tf.reduce_mean(tf.reduce_sum(q * log_p, axis=1)) / 10
    sgd(0.1).apply(tape.gradient(loss, plain.trainable_variables), plain.trainable_variables)
    for ours, expected in zip(student.variables, plain.variables, strict=True):
        if "moving_variance" not in expected.path:  # there ours is PyTorch's, see models_test
            np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=expected.path)
    assert np.abs(plain.get_layer("bn1").moving_mean.numpy()).max() > 1e-3


@pytest.mark.parametrize("mode", ["inference", "batch", "training"])
def test_batchnorm_of_the_attack(mode):
    keras.utils.set_random_seed(1)
    student, plain = _net(), _net()
    plain.set_weights(student.get_weights())
    images = tf.random.stateless_uniform([6, 8, 8, 1], [2, 3])
    labels, ids = tf.constant([0, 1, 2, 0, 1, 2]), tf.range(6, dtype=tf.int64)
    threat = ThreatModel(epsilon=0.1)
    distiller = PGDAdversarialTraining(
        student,
        context=TrainingContext(threat, attack_shards=2),
        attack=PGD(num_steps=2, start="none"),
        attack_batch_norm=mode,
    )
    distiller.compile(optimizer=sgd(0.1), jit_compile=False)
    distiller.train_step((images, labels, ids))

    adversarial = images
    before = [np.array(v) for v in plain.non_trainable_variables]
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch(adversarial)
            loss = cross_entropy(plain(adversarial, training=mode != "inference"), labels)
        moved = adversarial + 0.025 * tf.sign(tape.gradient(loss, adversarial))
        adversarial = threat.project(moved, images)
    if mode == "batch":
        for variable, value in zip(plain.non_trainable_variables, before, strict=True):
            variable.assign(value)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(cross_entropy(plain(adversarial, training=True), labels))
    sgd(0.1).apply(tape.gradient(loss, plain.trainable_variables), plain.trainable_variables)
    for ours, expected in zip(student.variables, plain.variables, strict=True):
        if "moving_variance" not in expected.path:  # there ours is PyTorch's, see models_test
            np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=expected.path)


def test_an_unknown_batchnorm_of_the_attack():
    with pytest.raises(
        ValueError, match="attack_batch_norm is 'train'; use one of inference, batch, training"
    ):
        PGDAdversarialTraining(_net(), attack_batch_norm="train")


@pytest.mark.parametrize(
    ("cores", "parts", "environment", "given"),
    [(2, 2, None, [1]), (7, 2, None, [4]), (1, 1, None, [1]), (2, 2, "2", [])],
)
def test_each_part_gets_its_share_of_the_cores(monkeypatch, cores, parts, environment, given):
    chosen: list[int] = []
    monkeypatch.setattr(sharding, "_cores", lambda: cores)
    monkeypatch.setattr(sharding, "default_shards", lambda: parts)
    monkeypatch.setattr(
        tf.config.threading, "set_intra_op_parallelism_threads", lambda n: chosen.append(n)
    )
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", environment)
    sharding.divide_cores()
    assert chosen == given
