"""Each distiller's weighted terms against the official code's loss and both gradients."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import registry

DATA = np.load(pathlib.Path(__file__).parent / "reference" / "losses_c10.npz")
# Name in the file -> distiller and settings that make it.
ROWS = {
    "pgd_at": ("pgd_at", {}),
    "trades": ("trades", {"beta": 6.0}),
    "mtard_half": ("mtard", {"weight_rate": 0.0}),
}


def _linear() -> keras.Model:
    return keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )


@pytest.mark.parametrize("name", ROWS)
def test_loss_and_gradients(name):
    distiller_name, settings = ROWS[name]
    cls = registry.target("distillers", distiller_name)
    distiller = cls(_linear(), {role: _linear() for role in cls.teacher_views}, **settings)
    distiller.compile(optimizer="sgd", jit_compile=False)
    student = {
        "clean": tf.constant(DATA["student_clean"]),
        "adversarial": tf.constant(DATA["student_adv"]),
    }
    teachers = {
        "clean": tf.constant(DATA["teacher_clean"]),
        "robust": tf.constant(DATA["teacher_adv"]),
    }
    labels = tf.constant(DATA["labels"].astype(np.int32))
    with tf.GradientTape() as tape:
        tape.watch(student)
        terms = distiller.terms(labels, student, teachers)
        means = {term: tf.reduce_mean(values) for term, values in terms.items()}
        weights, _ = distiller.weigh(means, teachers)
        loss = tf.add_n([weights[term] * mean for term, mean in means.items()])
    gradients = tape.gradient(loss, student, unconnected_gradients="zero")
    np.testing.assert_allclose(loss, DATA[name], rtol=1e-5)
    for view, key in (("clean", "clean"), ("adversarial", "adv")):
        np.testing.assert_allclose(
            gradients[view], DATA[f"{name}_grad_student_{key}"], atol=1e-6, rtol=1e-4
        )
