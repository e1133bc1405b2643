"""Our PGD against CleverHans' own, to the bit, and its start, seeds, graph size and errors."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from mtard_tf.attacks import seeds as random
from mtard_tf.attacks.attack import Problem
from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.threat import ThreatModel


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(6, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


@pytest.fixture(scope="module")
def batch():
    images = tf.random.stateless_uniform([6, 8, 8, 3], [1, 2])
    labels = tf.constant([0, 1, 2, 3, 4, 5])
    return images, labels, random.image_seeds(3, tf.range(6))


@pytest.mark.parametrize(("norm", "epsilon", "order"), [("linf", 8 / 255, np.inf), ("l2", 0.5, 2)])
@pytest.mark.parametrize("steps", [1, 10])
def test_equals_cleverhans_to_the_bit(model, batch, norm, epsilon, order, steps):
    images, labels, seeds = batch
    ours = PGD(num_steps=steps, start="none")(
        model, images, labels, threat=ThreatModel(norm, epsilon), seeds=seeds
    )
    theirs = projected_gradient_descent(
        model, images, epsilon, 0.25 * epsilon, steps, order, clip_min=0.0, clip_max=1.0, y=labels,
        rand_init=False,
    )  # fmt: skip
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_fgsm_equals_cleverhans_to_the_bit(model, batch):
    images, labels, seeds = batch
    ours = FGSM()(model, images, labels, threat=ThreatModel(epsilon=0.1), seeds=seeds)
    theirs = fast_gradient_method(model, images, 0.1, np.inf, clip_min=0.0, clip_max=1.0, y=labels)
    # FGSM of ours projects once more, which can round a pixel's last bit.
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=6e-8)


def test_graph_size_does_not_depend_on_the_number_of_steps(model, batch):
    def operations(steps):
        attack = tf.function(
            lambda x, y, s: PGD(num_steps=steps)(model, x, y, threat=ThreatModel(), seeds=s),
            autograph=False,
        )
        graph = attack.get_concrete_function(*batch).graph
        return len(graph.get_operations()) + sum(
            len(f.graph.get_operations()) for f in graph._functions.values() if hasattr(f, "graph")
        )

    assert operations(10) == operations(100)


def test_what_happens_to_an_image_does_not_depend_on_its_neighbours(model, batch):
    images, labels, seeds = batch
    attack = PGD(num_steps=4)
    whole = attack(model, images, labels, threat=ThreatModel(), seeds=seeds)
    one = attack(model, images[4:5], labels[4:5], threat=ThreatModel(), seeds=seeds[4:5])
    np.testing.assert_allclose(one[0], whole[4], atol=1e-6)


def test_starts(batch):
    images, labels, seeds = batch
    problem = Problem(lambda x: x, images, labels, ThreatModel(epsilon=0.1), seeds)
    uniform = PGD(start="uniform")._start(problem) - images
    assert 0.09 < float(tf.reduce_max(tf.abs(uniform))) <= 0.1 + 1e-7
    gaussian = PGD(start="gaussian")._start(problem) - images
    # 1,152 draws of 0.001 * N(0, 1): the standard error of their deviation is 2 %.
    np.testing.assert_allclose(np.std(gaussian), 0.001, rtol=0.08)
    np.testing.assert_array_equal(PGD(start="none")._start(problem), images)


def test_l2_start_fills_the_ball():
    from mtard_tf.attacks.pgd import uniform_in_ball

    seeds = random.image_seeds(0, tf.range(4000))
    draws = uniform_in_ball(seeds, tf.TensorShape([1, 2, 1]), ThreatModel("l2", 2.0))
    radius = np.linalg.norm(draws.numpy().reshape(4000, -1), axis=1)
    # In a disc the radius over epsilon squared is uniform: mean 1/2, standard error 0.0046.
    np.testing.assert_allclose(np.mean((radius / 2) ** 2), 0.5, atol=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": "random"}, "PGD.start is 'random'; use one of none, uniform, gaussian"),
        ({"num_steps": 0}, "PGD.num_steps is 0; give at least 1"),
        ({"relative_step_size": 0.0}, "PGD.relative_step_size is 0.0; give a fraction of epsilon"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l1"}, "ThreatModel.norm is 'l1'; use one of linf, l2"),
        ({"epsilon": -0.1}, "ThreatModel.epsilon is -0.1; give a number >= 0"),
        ({"minimum": 1.0}, "minimum must be below maximum"),
    ],
)
def test_bad_threat(settings, message):
    with pytest.raises(ValueError, match=message):
        ThreatModel(**settings)


def test_violation_is_measured_per_image():
    images = tf.fill([3, 1, 1, 2], 0.5)
    moved = images + tf.reshape([0.1, 0.0, 0.3, 0.0, 0.6, -0.1], [3, 1, 1, 2])
    linf = ThreatModel(epsilon=0.1).violation(moved, images)
    np.testing.assert_allclose(linf, [0.0, 0.2, 0.5], atol=1e-6)
    l2 = ThreatModel("l2", epsilon=0.3).violation(moved, images)
    np.testing.assert_allclose(l2, [0.0, 0.0, np.hypot(0.6, 0.1) - 0.3], atol=1e-6)
