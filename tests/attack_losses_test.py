"""Margin and DLR losses against the official code's numbers, and what they refuse."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import losses

REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "losses_c10.npz")


def _second(logits, labels):
    return np.argmax(np.where(np.eye(logits.shape[1])[labels] > 0, -np.inf, logits), axis=1)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("cw_margin", lambda z, y: losses.cw_margin(z, y, confidence=50.0)),
        ("dlr", losses.dlr),
        (
            "dlr_targeted_second",
            lambda z, y: losses.dlr_targeted(z, y, _second(REFERENCE["student_clean"], y)),
        ),
    ],
)
def test_values_and_gradients_are_the_official_ones(name, loss) -> None:
    logits = tf.constant(REFERENCE["student_adv"])
    labels = REFERENCE["labels"].astype(np.int32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = tf.reduce_sum(loss(logits, labels))
    np.testing.assert_allclose(total, REFERENCE[name], rtol=1e-6)
    gradient = REFERENCE[f"{name}_grad_student_adv"]
    np.testing.assert_allclose(tape.gradient(total, logits), gradient, rtol=1e-5, atol=1e-6)


def test_worked_example() -> None:
    # Label 0 of (5, 3, 1, 0): margin 5 - 3 = 2; CW at kappa 50: -(2 + 50);
    # DLR: -(5 - 3) / (5 - 1); towards class 2: -(5 - 1) / (5 - (1 + 0) / 2).
    logits, label = tf.constant([[5.0, 3.0, 1.0, 0.0]]), tf.constant([0])
    np.testing.assert_array_equal(losses.margin(logits, label), [2.0])
    np.testing.assert_array_equal(losses.cw_margin(logits, label), [-52.0])
    np.testing.assert_array_equal(losses.dlr(logits, label), [-0.5])
    np.testing.assert_allclose(losses.dlr_targeted(logits, label, tf.constant([2])), [-4 / 4.5])


def test_dlr_does_not_see_a_shift_or_a_scale_of_the_logits() -> None:
    logits, labels = tf.random.stateless_normal([8, 10], seed=[1, 2]), tf.range(8)
    np.testing.assert_allclose(
        losses.dlr(logits, labels), losses.dlr(50 * logits + 7, labels), rtol=1e-4
    )


def test_margin_survives_the_logits_of_a_distilled_net() -> None:
    # The papers' code masks the true class with -10000, which wins here.
    logits = tf.constant([[-3e4, -2e4, -2.5e4]])
    np.testing.assert_array_equal(losses.margin(logits, tf.constant([1])), [5e3])


def test_too_few_classes_are_named() -> None:
    with pytest.raises(ValueError, match="dlr loss needs at least 3 classes and got 2"):
        losses.dlr(tf.zeros([1, 2]), tf.constant([0]))
    with pytest.raises(ValueError, match="dlr_targeted loss needs at least 4 classes and got 3"):
        losses.dlr_targeted(tf.zeros([1, 3]), tf.constant([0]), tf.constant([1]))
