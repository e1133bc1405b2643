"""The distillers of chains: whole steps by hand, their limits, and the reference's Hinton loss."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import registry
from mtard_tf.data.image_data import Split
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.optimizers import sgd
from mtard_tf.plugins.defensive.extended import uncertainty

RATE = 0.5
IMAGES = np.random.RandomState(0).uniform(0, 1, (5, 2, 2, 1)).astype(np.float32)
LABELS = np.array([0, 2, 1, 2, 0], np.int32)
REFERENCE = np.load(pathlib.Path(__file__).parent / "reference" / "losses_c10.npz")


def _linear(seed: int, scale: float = 1.0, classes: int = 3) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(classes)]
    )
    random = np.random.RandomState(seed)
    model.set_weights([scale * random.normal(size=v.shape) for v in model.get_weights()])
    return model


def _stepped(name: str, teachers: dict, steps: int = 1, **settings) -> tuple[np.ndarray, dict]:
    """Kernel and bias as one matrix after some steps of SGD, and the last step's logs."""
    cls = registry.target("distillers", name)
    distiller = cls(_linear(1), teachers, **settings)
    distiller.compile(optimizer=sgd(RATE, momentum=0.0, weight_decay=0.0), jit_compile=False)
    batch = (tf.constant(IMAGES), tf.constant(LABELS), tf.range(5, dtype=tf.int64))
    for _ in range(steps):
        logs = distiller.train_step(batch)
    return np.vstack(distiller.student.get_weights()), {k: float(v) for k, v in logs.items()}


def _softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _matrix(model) -> np.ndarray:
    return np.vstack(model.get_weights()).astype(np.float64)


_X = np.hstack([IMAGES.reshape(5, 4), np.ones((5, 1))]).astype(np.float64)
_ONE_HOT = np.eye(3)[LABELS]


def _expected(temperature, alpha, soft, factor, teachers):
    """W - rate X^T (alpha (p_1 - y) + soft sum_k (p_T - q_k) / T * factor) / batch."""
    w = _matrix(_linear(1))
    s = _X @ w
    gradient = alpha * (_softmax(s) - _ONE_HOT)
    for teacher in teachers:
        q = _softmax(_X @ _matrix(teacher) / temperature)
        gradient = gradient + soft * factor * (_softmax(s / temperature) - q) / temperature
    return w - RATE * _X.T @ gradient / 5


def test_defensive_step():
    teacher = _linear(2, 8.0)
    weights, logs = _stepped("defensive", {"teacher": teacher}, temperature=20.0)
    np.testing.assert_allclose(weights, _expected(20.0, 0, 1, 1, [teacher]), atol=1e-6)
    q = _softmax(_X @ _matrix(teacher) / 20)
    p = _softmax(_X @ _matrix(_linear(1)) / 20)
    assert logs["loss"] == pytest.approx(-np.mean(np.sum(q * np.log(p), axis=1)), abs=1e-6)


def test_natural_step_at_a_temperature():
    weights, _ = _stepped("natural", {}, temperature=10.0)
    w = _matrix(_linear(1))
    gradient = (_softmax(_X @ w / 10) - _ONE_HOT) / 10
    np.testing.assert_allclose(weights, w - RATE * _X.T @ gradient / 5, atol=1e-6)


def test_defensive_at_temperature_1_with_a_one_hot_teacher_is_cross_entropy():
    class OneHot(keras.layers.Layer):
        def call(self, images):
            return 1000.0 * tf.one_hot(LABELS, 3)

    inputs = keras.Input((2, 2, 1))
    teacher = keras.Model(inputs, OneHot()(inputs))
    soft, soft_logs = _stepped("defensive", {"teacher": teacher}, temperature=1.0)
    hard, hard_logs = _stepped("natural", {})
    np.testing.assert_allclose(soft, hard, atol=1e-7)
    assert soft_logs["loss"] == pytest.approx(hard_logs["loss"], abs=1e-6)


@pytest.mark.parametrize("name", ["knowledge_distillation", "teacher_assistant"])
def test_hinton_step(name):
    teacher = _linear(2)
    weights, logs = _stepped(name, {"teacher": teacher}, alpha=0.3, temperature=4.0)
    np.testing.assert_allclose(weights, _expected(4.0, 0.3, 0.7, 16, [teacher]), atol=1e-6)
    assert logs["loss"] == pytest.approx(
        0.3 * logs["cross_entropy"] + 0.7 * 16 * logs["kl_teacher"], rel=1e-6
    )


def test_hinton_against_the_reference():
    cls = registry.target("distillers", "knowledge_distillation")
    distiller = cls(_linear(1, classes=10), {"teacher": _linear(2, classes=10)}, alpha=0.5)
    logits = tf.constant(REFERENCE["student_clean"])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        terms = distiller.terms(
            tf.constant(REFERENCE["labels"].astype(np.int32)),
            {"clean": logits},
            {"teacher": tf.constant(REFERENCE["teacher_clean"])},
        )
        means = {key: tf.reduce_mean(values) for key, values in terms.items()}
        weights, _ = distiller.weigh(means, {})
        loss = tf.add_n([weights[key] * mean for key, mean in means.items()])
    np.testing.assert_allclose(loss, REFERENCE["hinton_t4"], rtol=1e-5)
    np.testing.assert_allclose(
        tape.gradient(loss, logits), REFERENCE["hinton_t4_grad_student_clean"], atol=1e-6
    )


def test_official_mean_over_classes():
    teacher = _linear(2)
    weights, _ = _stepped("teacher_assistant", {"teacher": teacher}, official_quirks=True)
    np.testing.assert_allclose(weights, _expected(4.0, 0.5, 0.5, 16 / 3, [teacher]), atol=1e-6)


def test_densely_guided_step():
    ancestors = {f"link{i}": _linear(2 + i) for i in range(3)}
    weights, _ = _stepped("densely_guided", ancestors, temperature=5.0, alpha=0.2)
    np.testing.assert_allclose(weights, _expected(5.0, 0.2, 0.8, 25, ancestors.values()), atol=1e-6)


def test_one_ancestor_is_hinton():
    settings = {"alpha": 0.2, "temperature": 5.0, "steps": 3}
    dense, _ = _stepped("densely_guided", {"link0": _linear(2)}, **settings)
    hinton, _ = _stepped("knowledge_distillation", {"teacher": _linear(2)}, **settings)
    np.testing.assert_array_equal(dense, hinton)


def test_densely_guided_drops_some_ancestors_anew_in_each_step():
    ancestors = {f"link{i}": _linear(2 + i) for i in range(3)}
    cls = registry.target("distillers", "densely_guided")
    distiller = cls(_linear(1), ancestors, drop=1, context=TrainingContext(seed=3))
    seen = set()
    for step in range(20):
        distiller.steps_done.assign(step)
        kept = tuple(distiller.kept().numpy())
        assert sum(kept) == 2
        seen.add(kept)
    assert len(seen) == 3
    again = cls(_linear(1), ancestors, drop=1, context=TrainingContext(seed=3))
    again.steps_done.assign(19)
    assert tuple(again.kept().numpy()) == kept


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("defensive", {"temperature": 0}, "Defensive.temperature is 0; give a number above 0."),
        ("defensive", {"labels": "soft"}, "Defensive.labels is 'soft'; use 'cached' or 'online'."),
        ("teacher_assistant", {"alpha": 2}, "TeacherAssistant.alpha is 2; give a weight between 0"),
        (
            "densely_guided",
            {"drop": -1},
            "DenselyGuided.drop is -1; give a whole number",
        ),
    ],
)
def test_what_means_nothing_is_refused(name, settings, message):
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        _stepped(name, {"teacher": _linear(2)}, **settings)


def test_a_teacher_from_the_table_equals_one_that_is_asked():
    cls = registry.target("distillers", "defensive")
    teacher = _linear(2, 8.0)
    results = []
    for labels in ("cached", "online"):
        distiller = cls(_linear(1), {"teacher": teacher}, labels=labels)
        distiller.compile(optimizer=sgd(RATE), jit_compile=False)
        batch = (tf.constant(IMAGES), tf.constant(LABELS), tf.range(5, dtype=tf.int64))
        distiller.train_step((*batch, teacher(IMAGES)) if labels == "cached" else batch)
        results.append(np.vstack(distiller.student.get_weights()))
    np.testing.assert_allclose(*results, atol=1e-7)


def test_uncertainty_of_the_logits():
    logits = np.array([[[1.0, 0.0], [2.0, 2.0]], [[3.0, 0.0], [2.0, 2.0]]])
    # Image 0: standard deviations 1 and 0 over the two passes; sqrt((1 + 0) / 2). Image 1: none.
    np.testing.assert_allclose(uncertainty(logits), [np.sqrt(0.5), 0.0])


def test_extended_defensive_step():
    cls = registry.target("distillers", "extended_defensive_experimental")
    distiller = cls(_linear(1, classes=4), {"teacher": _linear(2)}, alpha=0.5)
    distiller.compile(optimizer=sgd(RATE, momentum=0.0, weight_decay=0.0), jit_compile=False)
    unsure = np.array([[0.0], [1.0], [0.5], [0.2], [0.8]], np.float32)
    ids = tf.range(5, dtype=tf.int64)
    distiller.train_step((tf.constant(IMAGES), tf.constant(LABELS), ids, tf.constant(unsure)))
    labels = np.hstack([_ONE_HOT * (1 - 0.5 * unsure), 0.5 * unsure])
    w = _matrix(_linear(1, classes=4))
    expected = w - RATE * _X.T @ (_softmax(_X @ w) - labels) / 5
    np.testing.assert_allclose(np.vstack(distiller.student.get_weights()), expected, atol=1e-6)


def test_the_uncertainty_of_a_net_with_dropout():
    inputs = keras.Input((2, 2, 1))
    x = keras.layers.Dropout(0.5, seed=1)(keras.layers.Flatten()(inputs))
    teacher = keras.Model(inputs, keras.layers.Dense(3)(x))
    cls = registry.target("distillers", "extended_defensive_experimental")
    images = np.stack([np.full((2, 2, 1), v, np.uint8) for v in (0, 100, 200)])
    split = Split(images, np.zeros(3, np.int32))
    table = cls(_linear(1, classes=4), {"teacher": teacher}, passes=400).table(
        "teacher", teacher, split
    )
    # The spread of dropped inputs grows with their size: 0, half, all of the largest.
    np.testing.assert_allclose(table, [[0.0], [0.5], [1.0]], atol=0.08)
