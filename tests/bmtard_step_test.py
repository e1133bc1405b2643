"""Whole `train_step`s of B-MTARD on a linear net, against the same steps written in NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.seeds import image_seeds, normal
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.optimizers import CoupledSGD
from mtard_tf.plugins.multi_teacher.bmtard import BMTARD
from mtard_tf.plugins.multi_teacher.mtard import MTARD
from mtard_tf.threat import ThreatModel

SHAPE, CLASSES, BATCH, EPSILON = (2, 2, 1), 3, 5, 0.1
RATE, MOMENTUM, DECAY = 0.5, 0.9, 2e-4
OFFSET = 1e-5


def linear(seed: int) -> keras.Model:
    model = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    )
    random = np.random.RandomState(seed)
    model.set_weights([random.randn(4, CLASSES) * 2, random.randn(CLASSES)])
    return model


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


class NumpyStep:
    """The official step, read off methods' formulas, in float64."""

    def __init__(self, student, robust, clean, temperature_rate, weight_rate):
        self.w, self.b = (v.astype(np.float64) for v in student.get_weights())
        self.teachers = [[v.astype(np.float64) for v in t.get_weights()] for t in (robust, clean)]
        self.tau, self.weights, self.first = np.ones(2), np.full(2, 0.5), None
        self.momentum = [np.zeros_like(self.w), np.zeros_like(self.b)]
        self.rates = (temperature_rate, weight_rate)

    def attack(self, x, labels, noise):
        adversarial = x + 0.001 * noise
        for _ in range(10):
            p = softmax(adversarial @ self.w + self.b)
            p[np.arange(BATCH), labels] -= 1
            adversarial = adversarial + EPSILON / 4 * np.sign(p @ self.w.T)
            adversarial = np.clip(np.clip(adversarial, x - EPSILON, x + EPSILON), 0, 1)
        return adversarial

    def step(self, x, labels, noise):
        views = (self.attack(x, labels, noise), x)
        losses, entropies, gradients = [], [], []
        for k, view in enumerate(views):
            q = softmax((view @ self.teachers[k][0] + self.teachers[k][1]) / self.tau[k])
            p = softmax(view @ self.w + self.b)
            losses.append((q * np.log(q + OFFSET) - q * np.log(p)).mean() * CLASSES / 10)
            entropies.append(-(q * np.log(q)).sum(1).mean())
            dz = (p - q) / (BATCH * 10)
            gradients.append((view.T @ dz, dz.sum(0)))
        losses, entropies = np.array(losses), np.array(entropies)
        self.first = losses if self.first is None else self.first
        self.tau = np.clip(
            self.tau - self.rates[0] * np.sign(entropies / entropies[::-1] - 1), 1, 10
        )
        relative = losses / self.first
        self.weights = self.weights + self.rates[1] * (relative / relative.sum() - self.weights)
        for i, variable in enumerate((self.w, self.b)):
            gradient = sum(self.weights[k] * gradients[k][i] for k in range(2))
            self.momentum[i] = MOMENTUM * self.momentum[i] + gradient + DECAY * variable
            variable -= RATE * self.momentum[i]
        return losses


@pytest.mark.parametrize(("temperature_rate", "weight_rate"), [(0.3, 0.025), (0.0, 0.0)])
def test_steps_equal_numpy(temperature_rate, weight_rate):
    student, robust, clean = linear(0), linear(1), linear(2)
    oracle = NumpyStep(student, robust, clean, temperature_rate, weight_rate)
    distiller = BMTARD(
        student,
        {"robust": robust, "clean": clean},
        context=TrainingContext(ThreatModel(epsilon=EPSILON), seed=7),
        temperature_rate=temperature_rate,
        weight_rate=weight_rate,
    )
    distiller.compile(optimizer=CoupledSGD(RATE, MOMENTUM, DECAY), jit_compile=False)
    step = tf.function(distiller.train_step, autograph=False)
    random = np.random.RandomState(3)
    for number in range(4):
        images = random.rand(BATCH, *SHAPE).astype(np.float32)
        labels = random.randint(0, CLASSES, BATCH).astype(np.int32)
        ids = np.arange(BATCH, dtype=np.int64) + BATCH * number
        noise = normal(image_seeds(7, tf.constant(ids)), SHAPE).numpy()
        losses = oracle.step(
            images.reshape(BATCH, -1).astype(np.float64), labels, noise.reshape(BATCH, -1)
        )
        logs = step((images, labels, ids))
        np.testing.assert_allclose([logs["kl_robust"], logs["kl_clean"]], losses, rtol=1e-5)
        np.testing.assert_allclose(distiller.temperatures, oracle.tau, atol=1e-6)
        np.testing.assert_allclose(distiller.balance_weights, oracle.weights, atol=1e-6)
        np.testing.assert_allclose(student.get_weights()[0], oracle.w, atol=1e-5)
        np.testing.assert_allclose(student.get_weights()[1], oracle.b, atol=1e-5)


def _weights_after(distiller, batch):
    distiller.compile(optimizer=CoupledSGD(RATE, MOMENTUM, DECAY), jit_compile=False)
    for _ in range(3):
        distiller.train_step(batch)
    return distiller.student.get_weights()


@pytest.fixture
def batch():
    random = np.random.RandomState(5)
    images = tf.constant(random.rand(BATCH, *SHAPE), tf.float32)
    labels = tf.constant(random.randint(0, CLASSES, BATCH), tf.int32)
    return images, labels, tf.range(BATCH, dtype=tf.int64)


def test_without_temperature_rate_it_is_mtard(batch):
    teachers = {"robust": linear(1), "clean": linear(2)}
    ours = _weights_after(BMTARD(linear(0), teachers, temperature_rate=0.0), batch)
    simpler = _weights_after(MTARD(linear(0), teachers), batch)
    for a, b in zip(ours, simpler, strict=True):
        np.testing.assert_array_equal(a, b)


def test_epsilon_zero_and_equal_teachers_are_plain_distillation(batch):
    # Both views are the clean images and both targets the same, so every weighting of the two
    # terms gives the gradient of KL(T(x) || S(x)) / 10. The Gaussian start is projected away.
    teacher = linear(1)
    mtard = MTARD(
        linear(0),
        {"robust": teacher, "clean": teacher},
        context=TrainingContext(ThreatModel(epsilon=0.0)),
    )
    ours = _weights_after(mtard, batch)
    student, optimizer = linear(0), CoupledSGD(RATE, MOMENTUM, DECAY)
    for _ in range(3):
        with tf.GradientTape() as tape:
            q, log_p = tf.nn.softmax(teacher(batch[0])), tf.nn.log_softmax(student(batch[0]))
            loss = -tf.reduce_mean(tf.reduce_sum(q * log_p, 1)) / 10
        optimizer.apply(
            tape.gradient(loss, student.trainable_variables), student.trainable_variables
        )
    for a, b in zip(ours, student.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_three_teachers_share_the_weights(batch):
    teachers = {"clean": linear(1), "half": linear(2), "robust": linear(3)}
    views = {"robust": "adversarial", "half": "adversarial", "clean": "clean"}
    distiller = BMTARD(linear(0), teachers, teacher_views=views, temperature_rate=0.1)
    _weights_after(distiller, batch)
    weights = np.array(distiller.balance_weights)
    assert weights.shape == (3,)
    np.testing.assert_allclose(weights.sum(), 1.0, atol=1e-6)
    assert np.ptp(weights) > 1e-4


def test_attack_shards_change_nothing_but_speed(batch):
    teachers = {"robust": linear(1), "clean": linear(2)}
    one = _weights_after(
        BMTARD(linear(0), teachers, context=TrainingContext(attack_shards=1)), batch
    )
    for shards in (2, 3, 7):  # 7 shards of 5 images: some are empty
        several = _weights_after(
            BMTARD(linear(0), teachers, context=TrainingContext(attack_shards=shards)), batch
        )
        for a, b in zip(one, several, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"initial_weights": {"robust": 0.9, "clean": 0.9}}, "summing to 1"),
        ({"initial_temperatures": {"clan": 2.0}}, "initial_temperatures is .*clan"),
        (
            {"initial_temperatures": {"clean": 0.0}},
            "numbers from 1 to 10 .the bounds. for robust, clean",
        ),
    ],
)
def test_bad_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        BMTARD(linear(0), {"robust": linear(1), "clean": linear(2)}, **kwargs)


def test_wrong_teachers():
    with pytest.raises(
        ValueError, match=r"has the teachers \['clean'\]; it needs \['clean', 'robust'\]"
    ):
        BMTARD(linear(0), {"clean": linear(1)})
    other = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(4)])
    with pytest.raises(
        ValueError, match=r"teacher 'clean' has logits of shape \(4,\), the student \(3,\)"
    ):
        BMTARD(linear(0), {"clean": other, "robust": linear(1)})


def test_one_pgd_serves_both_norms_inside_the_ball(batch):
    images, labels, ids = batch
    for norm in ("linf", "l2"):
        threat = ThreatModel(norm, 0.3)
        for start in ("none", "uniform", "gaussian"):
            attack = PGD(num_steps=3, start=start)
            perturbed = attack(linear(0), images, labels, threat=threat, seeds=image_seeds(1, ids))
            np.testing.assert_allclose(threat.violation(perturbed, images), 0, atol=1e-6)
            np.testing.assert_array_less(0.05, np.abs(perturbed - images).max(axis=(1, 2, 3)))
