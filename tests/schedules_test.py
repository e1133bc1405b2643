"""Schedules and the optimizer against their definitions."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.losses import cross_entropy, entropy, kl_divergence
from mtard_tf.optimizers import CoupledSGD
from mtard_tf.schedules import Constant, Cosine, Cyclic, ScheduledRate, StepDecay, Warmup


def test_official_decay_is_at_the_end_of_epochs_215_260_285():
    steps = 391
    rate = ScheduledRate(0.1, StepDecay(), steps)
    # Epoch 215 (counted from 1) is steps 214 * 391 to 215 * 391 - 1.
    for step, expected in (
        (0, 0.1),
        (215 * steps - 1, 0.1),
        (215 * steps, 0.01),
        (260 * steps - 1, 0.01),
        (260 * steps, 0.001),
        (285 * steps, 0.0001),
    ):
        np.testing.assert_allclose(rate(tf.constant(step, tf.int64)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "epoch", "expected"),
    [
        (Constant(), 7.0, 1.0),
        (Cosine(10), 5.0, 0.5),
        (Cosine(10, final=0.1), 10.0, 0.1),
        (Warmup(4), 1.0, 0.25),
        (Warmup(4, start=0.5), 2.0, 0.75),
        (Warmup(2, after=Cosine(10)), 5.0, 0.5),
        (Warmup(0), 0.0, 1.0),
        (Cyclic(10), 2.5, 0.5),
        (Cyclic(10, peak=0.4), 7.0, 0.5),
        (Cyclic(10), 11.0, 0.0),
    ],
)
def test_factors(schedule, epoch, expected):
    np.testing.assert_allclose(schedule(tf.constant(epoch)), expected, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    # By hand, one weight w = 1, constant gradient 2, rate 0.1, momentum 0.5, decay 0.1:
    #   g = 2 + 0.1 w; m = 0.5 m + g; w -= 0.1 m (Nesterov: 0.1 (g + 0.5 m)).
    w, m = 1.0, 0.0
    variable = keras.Variable([1.0])
    optimizer = CoupledSGD(0.1, momentum=0.5, weight_decay=0.1, nesterov=nesterov)
    for _ in range(3):
        g = 2 + 0.1 * w
        m = 0.5 * m + g
        w -= 0.1 * (g + 0.5 * m if nesterov else m)
        optimizer.apply([tf.constant([2.0])], [variable])
        np.testing.assert_allclose(variable.numpy(), [w], rtol=1e-6)


def test_losses_by_hand():
    # softmax(log 3, 0) = (3/4, 1/4) and softmax(0, 0) = (1/2, 1/2):
    # KL = 3/4 log(3/2) + 1/4 log(1/2) = 0.130812; H = log 4 - 3/4 log 3 = 0.562335.
    teacher, student = tf.constant([[np.log(3.0), 0.0]], tf.float32), tf.zeros([1, 2])
    np.testing.assert_allclose(kl_divergence(teacher, student), [0.130812], atol=1e-6)
    np.testing.assert_allclose(entropy(teacher), [0.562335], atol=1e-6)
    # At temperature 2 the odds are sqrt(3): p = 0.633975, H = 0.656796.
    p = np.sqrt(3) / (1 + np.sqrt(3))
    h = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    np.testing.assert_allclose(entropy(teacher, temperature=2.0), [h], atol=1e-6)
    soft = kl_divergence(teacher, student, teacher_temperature=2.0)
    np.testing.assert_allclose(soft, [np.log(2) - h], atol=1e-6)
    np.testing.assert_allclose(cross_entropy(teacher, tf.constant([1])), [np.log(4)], atol=1e-6)


def test_exact_entropy_of_a_very_sure_teacher_stays_positive():
    logits = tf.constant([[25.0] + [0.0] * 9])
    # 9 e^-25 (25 + 1) + e^-50 and so on: 3.25e-9.
    exact = 9 * np.exp(-25.0) * 26
    np.testing.assert_allclose(entropy(logits), [exact], atol=1e-8)
    assert float(entropy(logits)[0]) >= 0
    # The official form, on request: -(1 + 9 e^-25) log(1 + 1e-5) and a little.
    official = entropy(logits, log_offset=1e-5)
    np.testing.assert_allclose(official, [-1e-5], atol=1e-6)


def test_equal_logits_have_no_divergence():
    logits = tf.random.stateless_normal([6, 10], [0, 1]) * 5
    np.testing.assert_allclose(kl_divergence(logits, logits), np.zeros(6), atol=1e-6)
