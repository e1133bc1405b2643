"""The balance over whole trajectories against numbers computed with the official code."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.losses import entropy, kl_divergence
from mtard_tf.plugins.multi_teacher.balance import balanced_temperatures, balanced_weights

REFERENCE = pathlib.Path(__file__).parent / "reference"
OFFSET = 1e-5


def _rate(base: float, drops: tuple[int, ...], step: int) -> float:
    return base * 0.1 ** sum(step >= drop for drop in drops)


@tf.function(autograph=False)
def _step(logits, temperatures, weights, first, is_first, temperature_rate, weight_rate):
    """One step on (sa, ta, sn, tn), with losses as means over batch and classes, as the file."""
    student_adv, teacher_adv, student_nat, teacher_nat = logits
    classes = float(student_adv.shape[1])
    with tf.GradientTape() as tape:
        tape.watch((student_adv, student_nat))
        losses = tf.stack(
            [
                tf.reduce_mean(
                    kl_divergence(t, s, teacher_temperature=temperatures[k], log_offset=OFFSET)
                )
                / classes
                for k, (t, s) in enumerate(((teacher_adv, student_adv), (teacher_nat, student_nat)))
            ]
        )
        entropies = tf.stack(
            [
                tf.reduce_mean(entropy(t, temperature=temperatures[k], log_offset=OFFSET)) / classes
                for k, t in enumerate((teacher_adv, teacher_nat))
            ]
        )
        first = tf.where(is_first, losses, first)
        new_temperatures = balanced_temperatures(temperatures, entropies, rate=temperature_rate)
        new_weights = balanced_weights(
            weights, tf.stop_gradient(losses), tf.stop_gradient(first), rate=weight_rate
        )
        total = tf.reduce_sum(new_weights * losses)
    gradients = tape.gradient(total, (student_adv, student_nat))
    return losses, entropies, first, new_temperatures, new_weights, total, gradients


@pytest.mark.parametrize(
    ("name", "temperature_rate", "weight_rate", "drops"),
    [
        ("bmtard_c10", 0.01, 0.025, (200, 260)),
        ("bmtard_c100", 0.05, 0.025, ()),
        ("mtard_c10", 0.0, 0.025, (150,)),
        ("fixed_c10", 0.0, 0.0, ()),
    ],
)
def test_trajectory(name, temperature_rate, weight_rate, drops):
    data = np.load(REFERENCE / f"{name}.npz")
    inputs = [data[key].astype(np.float32) for key in ("in_sa", "in_ta", "in_sn", "in_tn")]
    temperatures, weights = tf.ones([2]), tf.fill([2], 0.5)
    first = tf.zeros([2])
    for step in range(len(inputs[0])):
        losses, entropies, first, temperatures, weights, total, gradients = _step(
            tuple(tf.constant(x[step]) for x in inputs),
            temperatures,
            weights,
            first,
            tf.constant(step == 0),
            tf.constant(_rate(temperature_rate, drops, step)),
            tf.constant(_rate(weight_rate, drops, step)),
        )
        for key, value in (("adv", 0), ("nat", 1)):
            np.testing.assert_allclose(losses[value], data[f"loss_{key}"][step], rtol=1e-5)
            np.testing.assert_allclose(weights[value], data[f"w_{key}"][step], atol=1e-5)
            if "h_adv" in data:
                np.testing.assert_allclose(entropies[value], data[f"h_{key}"][step], rtol=1e-5)
                np.testing.assert_allclose(temperatures[value], data[f"t_{key}"][step], atol=1e-5)
            if f"grad_s{key[0]}" in data:
                np.testing.assert_allclose(
                    gradients[value], data[f"grad_s{key[0]}"][step], atol=1e-5
                )
        np.testing.assert_allclose(total, data["total"][step], rtol=1e-5)
