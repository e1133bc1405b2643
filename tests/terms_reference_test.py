"""Each distiller's weighted terms against the official code's loss and both gradients.

The attacks' losses of the same file are in `attack_losses_test.py`.
"""

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
    "mart": ("mart", {"beta": 5.0}),
    "ard": ("ard", {"official_quirks": True}),  # the mean over classes
    "rslad": ("rslad", {}),
    "iad1": ("iad", {"begin": 0.0}),
    "adaad": ("adaad", {}),
    "mtard_half": ("mtard", {"weight_rate": 0.0}),
}
STUDENT = {"clean": DATA["student_clean"], "adversarial": DATA["student_adv"]}
TEACHER = {"clean": DATA["teacher_clean"], "adversarial": DATA["teacher_adv"]}


def _linear() -> keras.Model:
    return keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )


def _distiller(name, settings):
    cls = registry.target("distillers", name)
    distiller = cls(_linear(), {role: _linear() for role in cls.teacher_views}, **settings)
    distiller.compile(optimizer="sgd", jit_compile=False)
    return distiller


def _loss_and_gradients(distiller):
    student = {view: tf.constant(logits) for view, logits in STUDENT.items()}
    teachers = {
        name: tf.constant(TEACHER[view]) for name, _, view in distiller.teachers.questions()
    }
    labels = tf.constant(DATA["labels"].astype(np.int32))
    with tf.GradientTape() as tape:
        tape.watch(student)
        terms = distiller.terms(labels, student, teachers)
        means = {term: tf.reduce_mean(values) for term, values in terms.items()}
        weights, _ = distiller.weigh(means, teachers)
        loss = tf.add_n([weights[term] * mean for term, mean in means.items()])
    return loss, tape.gradient(loss, student, unconnected_gradients="zero")


@pytest.mark.parametrize("name", ROWS)
def test_loss_and_gradients(name):
    loss, gradients = _loss_and_gradients(_distiller(*ROWS[name]))
    np.testing.assert_allclose(loss, DATA[name], rtol=1e-5)
    for view, key in (("clean", "clean"), ("adversarial", "adv")):
        np.testing.assert_allclose(
            gradients[view], DATA[f"{name}_grad_student_{key}"], atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "quirks", "times"),
    [
        # The mean over 10 classes is a tenth of the sum.
        ("ard", {}, 10.0),
        ("adaad", {"official_quirks": True}, 0.1),
    ],
)
def test_reductions_differ_by_the_classes(name, quirks, times):
    loss, _ = _loss_and_gradients(_distiller(name, quirks))
    np.testing.assert_allclose(loss, times * DATA[name], rtol=1e-5)
