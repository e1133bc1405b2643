"""Parts and settings of the baselines: worked examples, official quirks, the guide of LBGAT."""

from __future__ import annotations

import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import registry
from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.distiller.context import TrainingContext
from mtard_tf.models.precision import with_precision
from mtard_tf.optimizers import sgd
from mtard_tf.plugins.adversarial_distillation.class_balance import class_temperatures
from mtard_tf.plugins.adversarial_distillation.iad import distrust


def _linear(classes: int = 3) -> keras.Model:
    return keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(classes)]
    )


def _make(name: str, **settings):
    cls = registry.target("distillers", name)
    return cls(_linear(), {role: _linear() for role in cls.teacher_views}, **settings)


def test_class_temperatures_worked_example():
    # Sums 1, 2, 6 have the mean 3, gaps -2, -1, 3, over the largest -2/3, -1/3, 1. At rate 0.3 from
    # 1: 1.2, 1.1, 0.7. In the other view all are equal, and nothing moves.
    moved = class_temperatures(
        tf.ones([2, 3]), tf.constant([[1.0, 2, 6], [4, 4, 4]]), rate=0.3, minimum=0.5, maximum=5.0
    )
    np.testing.assert_allclose(moved, [[1.2, 1.1, 0.7], [1, 1, 1]], rtol=1e-6)
    clipped = class_temperatures(
        tf.ones([1, 3]), tf.constant([[1.0, 2, 6]]), rate=3.0, minimum=0.5, maximum=2.5
    )
    np.testing.assert_allclose(clipped, [[2.5, 2.0, 0.5]], rtol=1e-6)


@pytest.mark.parametrize(("epoch", "expected"), [(1.99, 0.0), (2.0, 0.5)])
def test_distrust_worked_example(epoch, expected):
    # Logits 0 and log 3: p_T(y) = 1/4, whose root is 1/2, so half the trust is the student's own.
    settings = types.SimpleNamespace(beta=0.5, begin=2, epoch=tf.constant(epoch))
    trust = distrust(settings, tf.constant([0]), tf.constant([[0.0, math.log(3.0)]]))
    np.testing.assert_allclose(trust, [expected], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "batch_norm", "views"),
    [
        ("pgd_at", "batch", ("adversarial",)),
        ("ard", "training", ("adversarial", "clean")),
        ("iad", "training", ("adversarial", "clean")),
        ("iad2", "training", ("adversarial", "clean")),
        ("adaad", "inference", ("clean", "adversarial")),
        ("adaiad", "inference", ("clean", "adversarial")),
        ("adr", "training", ("adversarial",)),
        ("saad", "inference", ("adversarial", "mirrored", "clean")),
        ("fgsm_rs", "training", ("adversarial",)),
        ("n_fgsm", "training", ("adversarial",)),
        ("score", "batch", ("clean", "adversarial")),
    ],
)
def test_official_quirks(name, batch_norm, views):
    assert _make(name).inner_attack.batch_norm == "inference"
    quirky = _make(name, official_quirks=True)
    assert quirky.inner_attack.batch_norm == batch_norm
    assert quirky.student_views == views


# What the attack's passes do to BatchNorm is checked against Keras, eagerly, in
# distiller_step_test.py: here that a compiled step with the quirks does the same.
@pytest.mark.parametrize("name", ["pgd_at", "ard", "iad2", "score", "adaad"])
def test_a_compiled_step_with_official_quirks_is_the_eager_one(name):
    random = np.random.RandomState(0)
    images = tf.constant(random.rand(6, 2, 2, 1), tf.float32)
    batch = images, tf.constant([0, 1, 2, 0, 1, 2]), tf.range(6, dtype=tf.int64)
    results = []
    for compiled in (False, True):
        keras.utils.set_random_seed(5)
        cls = registry.target("distillers", name)
        layers = [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(4)]
        student = keras.Sequential(
            [*layers, keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(3)]
        )
        distiller = cls(
            student,
            {role: _linear() for role in cls.teacher_views},
            attack=PGD(num_steps=2, start="uniform"),
            official_quirks=True,
        )
        distiller.compile(optimizer=sgd(0.1), jit_compile=False)
        step = (
            tf.function(distiller.train_step, autograph=False) if compiled else distiller.train_step
        )
        results.append([float(step(batch)["loss"]) for _ in range(2)])
        results[-1] += [w for weights in student.get_weights() for w in weights.ravel()]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-5)
    moving_mean = student.layers[2].moving_mean.numpy()
    assert np.abs(moving_mean).max() > 1e-2


def test_absld_divides_twice_in_the_official_code():
    logits, labels = tf.constant([[2.0, 4, 6], [2, 4, 6]]), tf.constant([0, 2])
    for quirks, adversarial, clean in ((False, (2, 1), (1, 0.5)), (True, (2, 0.5), (2, 0.5))):
        distiller = _make("absld", official_quirks=quirks)
        distiller.class_temperatures.assign([[2.0, 1, 1], [1, 1, 0.5]])
        for view, divisors in (("adversarial", adversarial), ("clean", clean)):
            target = distiller.target(labels, {"robust": logits}, view)
            np.testing.assert_allclose(target, logits / np.array(divisors)[:, None], rtol=1e-6)


def test_absld_ends_an_epoch_whose_last_step_was_skipped():
    random = np.random.RandomState(0)
    distiller = _make(
        "absld",
        context=TrainingContext(steps_per_epoch=2, skip_non_finite=True),
        attack=FGSM(),
    )
    distiller.compile(optimizer=sgd(0.1), jit_compile=False)
    ended, temperatures = [], []
    for step in range(4):
        images = random.rand(4, 2, 2, 1).astype(np.float32)
        if step == 1:
            images[0] = np.nan
        ids = np.arange(4, dtype=np.int64)
        logs = distiller.train_step((images, np.array([0, 1, 2, 0], np.int32), ids))
        assert logs["skipped"] == (step == 1)
        ended.append(int(distiller.epochs_ended.numpy()))
        temperatures.append(distiller.class_temperatures.numpy())
    np.testing.assert_array_equal(ended, [0, 0, 1, 2])
    np.testing.assert_array_equal(temperatures[1], np.ones((2, 3)))
    # The class that differs most moves by the whole rate, once for each epoch.
    for before, after in zip(temperatures[1:], temperatures[2:], strict=False):
        np.testing.assert_allclose(np.abs(after - before).max(axis=1), [0.1, 0.1], atol=1e-6)


def test_a_guide_has_weights_and_if_asked_an_architecture_of_its_own():
    student = with_precision(_linear(), "mixed_bfloat16")
    cls = registry.target("distillers", "lbgat")
    alike = cls(student).guide
    assert np.any(alike.get_weights()[0] != student.get_weights()[0])
    assert alike.layers[-1].dtype_policy.name == "mixed_bfloat16"

    def wide(image_shape, num_classes):
        return keras.Sequential(
            [
                keras.Input(image_shape),
                keras.layers.Flatten(),
                keras.layers.Dense(7),
                keras.layers.Dense(num_classes),
            ]
        )

    def normalised(image_shape, num_classes):
        net = wide(image_shape, 5)
        net.add(keras.layers.BatchNormalization())
        net.add(keras.layers.Dense(num_classes))
        return net

    for synchronized in (False, True):
        over_replicas = normalised((2, 2, 1), 3)
        over_replicas.layers[-2].synchronized = synchronized
        guide = cls(over_replicas, guide=normalised).guide
        assert guide.layers[-2].synchronized == synchronized

    other = cls(student, guide=wide).guide
    assert other.count_params() == 5 * 7 + 8 * 3
    assert other.layers[-1].dtype_policy.name == "mixed_bfloat16"
    with pytest.raises(ValueError, match=r"teacher 'guide' has logits of shape \(4,\)"):
        cls(_linear(), guide=lambda *_: _linear(4))
