"""Attacks that look for the smallest change: C&W L2, DeepFool and JSMA on models solved by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.attacks.attack import Problem
from mtard_tf.attacks.carlini_wagner import CWL2
from mtard_tf.attacks.deepfool import DeepFool
from mtard_tf.attacks.jsma import JSMA, changed_fraction
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.attacks.spsa import adam
from mtard_tf.threat import ThreatModel

KERNEL = tf.random.stateless_normal([9, 4], seed=[4, 1])


def _linear(images):
    return tf.reshape(images, [-1, 9]) @ KERNEL


def _problem(count=4):
    images = 0.5 + 0.02 * tf.random.stateless_normal([count, 3, 3, 1], seed=[1, 1])
    return images, tf.argmax(_linear(images), axis=1, output_type=tf.int32)


def _distances(images, labels, norm):
    """|z_y - z_k| / |w_y - w_k|_dual for every class k; infinite for k = y."""
    kernel, logits = KERNEL.numpy(), _linear(images).numpy()
    rows = []
    for z, y in zip(logits, labels.numpy(), strict=True):
        normals = kernel - kernel[:, [y]]
        dual = np.abs(normals).sum(0) if norm == "linf" else np.linalg.norm(normals, axis=0)
        rows.append(np.where(np.arange(4) == y, np.inf, (z[y] - z) / np.maximum(dual, 1e-9)))
    return np.array(rows)


def _sizes(x, images, norm):
    delta = np.reshape(x - images, [len(images), -1])
    return np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_takes_the_shortest_way_out_of_a_linear_class(norm) -> None:
    images, labels = _problem()
    x = DeepFool().minimal(Problem(_linear, images, labels, ThreatModel(norm, 1.0), None))
    assert not np.any(_linear(x).numpy().argmax(1) == labels.numpy())
    shortest = _distances(images, labels, norm).min(1)
    np.testing.assert_allclose(_sizes(x, images, norm), 1.02 * shortest, rtol=2e-2)


@pytest.fixture(scope="module")
def cw_images():
    images, labels = _problem()
    attack = tf.function(
        CWL2(num_steps=300, search_steps=8, initial_constant=0.1).minimal, autograph=False
    )
    return images, labels, attack(Problem(_linear, images, labels, ThreatModel("l2", 1.0), None))


def test_cw_l2_finds_the_smallest_distance(cw_images) -> None:
    images, labels, x = cw_images
    assert not np.any(_linear(x).numpy().argmax(1) == labels.numpy())
    shortest = _distances(images, labels, "l2").min(1)
    sizes = _sizes(x, images, "l2")
    np.testing.assert_array_less(0.999 * shortest, sizes)
    np.testing.assert_allclose(sizes, shortest, rtol=0.03)


def test_cw_l2_targeted_reaches_the_class_that_is_asked_for(cw_images) -> None:
    images, labels, untargeted = cw_images
    targets = (labels + 2) % 4
    attack = tf.function(CWL2(300, 8, initial_constant=0.1, targeted=True).minimal, autograph=False)
    x = attack(Problem(_linear, images, targets, ThreatModel("l2", 1.0), None))
    np.testing.assert_array_equal(_linear(x).numpy().argmax(1), targets)
    np.testing.assert_array_less(
        0.97 * _sizes(untargeted, images, "l2"), _sizes(x, images, "l2") + 1e-7
    )
    # Already in the target class: nothing to do.
    same = attack(Problem(_linear, images, labels, ThreatModel("l2", 1.0), None))
    np.testing.assert_array_equal(same, images)


def test_cw_l2_confidence_is_the_margin_of_the_wrong_class() -> None:
    images, labels = _problem()
    attack = tf.function(
        CWL2(200, 6, initial_constant=1.0, confidence=0.5).minimal, autograph=False
    )
    logits = _linear(attack(Problem(_linear, images, labels, ThreatModel("l2", 1.0), None))).numpy()
    own = logits[np.arange(4), labels.numpy()]
    others = np.where(np.eye(4)[labels.numpy()] > 0, -np.inf, logits).max(1)
    np.testing.assert_array_less(0.5 - 1e-5, others - own)


def test_cw_l2_state_is_each_image_s_own() -> None:
    images, labels = _problem()
    attack = tf.function(CWL2(60, 3, initial_constant=1.0).minimal, autograph=False)
    together = attack(Problem(_linear, images, labels, ThreatModel("l2", 1.0), None))
    alone = attack(Problem(_linear, images[2:3], labels[2:3], ThreatModel("l2", 1.0), None))
    np.testing.assert_allclose(together[2:3], alone, atol=1e-5)


def test_what_lies_outside_the_ball_comes_back_clean() -> None:
    images, labels = _problem()
    distances = _distances(images, labels, "l2").min(1)
    threat = ThreatModel("l2", float(1.02 * np.median(distances)))
    x = DeepFool()(
        _linear, images, labels, threat=threat, seeds=image_seeds(0, tf.range(4))
    ).numpy()
    moved = _sizes(x, images, "l2") > 0
    np.testing.assert_array_equal(moved, distances < np.median(distances))
    assert moved.any() and not moved.all()


def test_adam_is_keras_adam() -> None:
    import keras

    variable = keras.Variable(np.array([1.0, -2.0], np.float32))
    optimizer = keras.optimizers.Adam(0.05, epsilon=1e-8)
    x = first = second = tf.zeros(2)
    x = tf.constant([1.0, -2.0])
    for i in range(5):
        gradient = tf.constant([0.3, -1.0]) * float(i + 1) - 2.0
        optimizer.apply([gradient], [variable])
        move, first, second = adam(gradient, first, second, tf.constant(i), 0.05)
        x -= move
    np.testing.assert_allclose(x, keras.ops.convert_to_numpy(variable), rtol=1e-5)


def test_jsma_moves_the_pair_with_the_greatest_saliency() -> None:
    # Two classes, four pixels, all black, linear: dZ_0/dx = (1, 2, 0, 3), dZ_1/dx = (0, -1, 1, 4).
    # Pairs by a = sum dZ_0 > 0, b = sum dZ_1 < 0: (0, 1): a 3, b -1, worth 3 and the only one with
    # b < 0, as (1, 2) has b = 0 and pixel 3 adds 4.
    kernel = tf.constant([[1.0, 0.0], [2.0, -1.0], [0.0, 1.0], [3.0, 4.0]])

    def model(images):
        return tf.reshape(images, [-1, 4]) @ kernel + tf.constant([0.0, 1.0])

    images = tf.zeros([1, 2, 2, 1])
    attack = JSMA(max_fraction=1.0, targeted=True)
    x = attack.minimal(Problem(model, images, tf.constant([0]), ThreatModel("linf", 1.0), None))
    np.testing.assert_array_equal(tf.reshape(x, [-1]), [1.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(changed_fraction(x, images), [0.5])
    # Untargeted from class 1, the same pair; from the target class, nothing to do.
    x = JSMA(max_fraction=1.0).minimal(
        Problem(model, images, tf.constant([1]), ThreatModel("linf", 1.0), None)
    )
    np.testing.assert_array_equal(tf.reshape(x, [-1]), [1.0, 1.0, 0.0, 0.0])
    x = attack.minimal(Problem(model, images, tf.constant([1]), ThreatModel("linf", 1.0), None))
    np.testing.assert_array_equal(x, images)


def test_jsma_budget_and_temperature() -> None:
    images, labels = _problem(6)
    threat = ThreatModel("linf", 1.0)
    x = JSMA(max_fraction=0.25).minimal(Problem(_linear, images, labels, threat, None))
    np.testing.assert_array_less(changed_fraction(x, images), 2 / 9 + 1e-6)
    # A distilled net: at temperature 1 its softmax has no gradient, at its own it has.
    sharp = JSMA(theta=-1.0, max_fraction=0.9, temperature=1.0)
    fixed = JSMA(theta=-1.0, max_fraction=0.9, temperature=1000.0)

    def model(images):
        return 1000.0 * _linear(images)

    for attack, broken in ((sharp, 0), (fixed, 6)):
        x = attack.minimal(Problem(model, images, labels, threat, None))
        assert np.sum(model(x).numpy().argmax(1) != labels.numpy()) == broken


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CWL2(num_steps=0), "CWL2.num_steps is 0; give a number above 0"),
        (lambda: CWL2(confidence=-1), "CWL2.confidence is -1; give a number >= 0"),
        (lambda: DeepFool(candidates=0), "DeepFool.candidates is 0; give at least 1"),
        (lambda: JSMA(theta=0.0), r"JSMA.theta is 0.0; give a change in \[-1, 1\], not 0"),
        (lambda: JSMA(max_fraction=0.0), r"JSMA.max_fraction is 0.0; give a share in \(0, 1\]"),
        (lambda: JSMA(temperature=0.0), "JSMA.temperature is 0.0; give a number above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("attack", [CWL2(), DeepFool(), JSMA()])
def test_objectives_are_refused(attack) -> None:
    with pytest.raises(ValueError, match="give no objective"):
        attack(None, None, None, threat=ThreatModel(), seeds=None, objective=lambda x, z: z)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_ends_beyond_the_boundary_at_every_scale_of_the_logits(norm) -> None:
    first = tf.random.stateless_normal([36, 8], seed=[1, 1]) / 3
    second = tf.random.stateless_normal([8, 4], seed=[1, 2])
    images = tf.random.stateless_uniform([64, 6, 6, 1], [1, 3], 0.3, 0.7)

    def net(x, order, factor=1.0):
        flat = tf.gather(tf.reshape(x, [-1, 36]), order, axis=1)
        hidden = tf.nn.relu(flat @ tf.gather(first, order))
        return factor * (hidden @ second)

    labels = tf.argmax(net(images, range(36)), axis=1, output_type=tf.int32)
    found = {}
    for factor in (1e-6, 1.0, 1e3, 1e6):

        @tf.function
        def run(x, factor=factor):
            model = lambda x: net(x, range(36), factor)  # noqa: E731
            return DeepFool().minimal(Problem(model, x, labels, ThreatModel(norm, 1.0), None))

        perturbed = run(images)
        # The same sums in another order, as in a net that is counted and not attacked.
        again = tf.argmax(net(perturbed, range(35, -1, -1), factor), 1, output_type=tf.int32)
        found[factor] = (perturbed.numpy(), (again == labels).numpy())
    for perturbed, stands in found.values():
        np.testing.assert_array_equal(stands, np.zeros(64, bool))
        np.testing.assert_allclose(perturbed, found[1.0][0], atol=1e-4)
