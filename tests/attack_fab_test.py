"""FAB: its projection onto hyperplane and box against SciPy, and the attack on linear models."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from mtard_tf.attacks.fab import FAB, FABTargeted
from mtard_tf.attacks.geometry import to_hyperplane
from mtard_tf.attacks.jacobian import logits_and_jacobian
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.threat import ThreatModel


def _problem(seed, dimensions, reach):
    generator = np.random.default_rng(seed)
    point = generator.uniform(size=dimensions)
    point[: dimensions // 4] = generator.choice([0.0, 1.0], size=dimensions // 4)
    normal = generator.normal(size=dimensions)
    normal[-1] = 0.0
    goal = np.where(normal > 0, 1.0, 0.0)  # the corner with the greatest <normal, x>
    offset = normal @ point + reach * (normal @ (goal - point))
    return point, normal, offset


def _solve(point, normal, offset, norm):
    threat = ThreatModel(norm, 1.0)
    as_batch = [tf.constant(v[None], tf.float32) for v in (point, normal)]
    step = to_hyperplane(*as_batch, tf.constant([offset], tf.float32), threat)
    return step.numpy()[0].astype(np.float64)


def _check_feasible(step, point, normal, offset):
    np.testing.assert_allclose(point + step, np.clip(point + step, 0, 1), atol=1e-6)
    np.testing.assert_allclose(normal @ (point + step), offset, atol=2e-5)


@pytest.mark.parametrize("reach", [1e-4, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("seed", range(4))
def test_linf_projection_is_the_linear_program_s(seed, reach) -> None:
    point, normal, offset = _problem(seed, 12, reach)
    step = _solve(point, normal, offset, "linf")
    _check_feasible(step, point, normal, offset)
    # Variables (d, t): minimise t with -t <= d <= t on the plane and in the box.
    eye, one = np.eye(12), np.ones((12, 1))
    best = scipy.optimize.linprog(
        [0.0] * 12 + [1.0],
        A_ub=np.block([[eye, -one], [-eye, -one]]),
        b_ub=np.zeros(24),
        A_eq=[[*normal, 0.0]],
        b_eq=[offset - normal @ point],
        bounds=[*zip(-point, 1 - point, strict=True), (0, None)],
    )
    assert best.success
    np.testing.assert_allclose(np.abs(step).max(), best.fun, atol=1e-5)


@pytest.mark.parametrize("reach", [1e-4, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("seed", range(4))
def test_l2_projection_is_the_quadratic_program_s(seed, reach) -> None:
    point, normal, offset = _problem(seed, 12, reach)
    step = _solve(point, normal, offset, "l2")
    _check_feasible(step, point, normal, offset)

    # Brute force over the one dual variable: d(t) = clip(t normal, box), <normal, d> increasing.
    def way(t):
        return normal @ np.clip(t * normal, -point, 1 - point) - (offset - normal @ point)

    t = scipy.optimize.brentq(way, 0.0, 1e7, xtol=1e-14)
    np.testing.assert_allclose(step, np.clip(t * normal, -point, 1 - point), atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_plane_out_of_reach_gives_the_nearest_corner(norm) -> None:
    point, normal, _ = _problem(7, 12, 0.5)
    step = _solve(point, normal, normal @ point + 100.0, norm)
    expected = np.where(normal > 0, 1 - point, np.where(normal < 0, -point, 0.0))
    np.testing.assert_allclose(step, expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_point_on_the_plane_does_not_move(norm) -> None:
    point, normal, _ = _problem(3, 12, 0.5)
    step = _solve(point, normal, np.float32(normal @ point), norm)
    np.testing.assert_allclose(step, 0.0, atol=1e-6)


def test_rows_of_a_batch_are_solved_alone() -> None:
    problems = [_problem(s, 12, r) for s, r in ((0, 0.1), (1, 0.9), (2, 0.5))]
    points, normals = (tf.constant([p[k] for p in problems], tf.float32) for k in (0, 1))
    offsets = tf.constant([p[2] for p in problems], tf.float32)
    together = to_hyperplane(points, normals, offsets, ThreatModel("linf", 1.0))
    for row, problem in zip(together.numpy(), problems, strict=True):
        np.testing.assert_allclose(row, _solve(*problem, "linf"), atol=1e-6)


def _linear(classes=4):
    kernel = tf.random.stateless_normal([9, classes], seed=[4, 1])
    return kernel.numpy(), lambda images: tf.reshape(images, [-1, 9]) @ kernel


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [FAB(num_steps=30), FABTargeted(num_steps=30)])
def test_breaks_a_linear_model_exactly_from_the_true_distance_on(attack, norm) -> None:
    kernel, model = _linear()
    # Mid-grey images: the box is far away, so that the distance is |gap| / dual norm.
    images = 0.5 + 0.02 * tf.random.stateless_normal([6, 3, 3, 1], seed=[1, 1])
    logits = model(images).numpy()
    labels = logits.argmax(1)
    distances = []
    for z, y in zip(logits, labels, strict=True):
        normals = kernel - kernel[:, [y]]
        dual = np.abs(normals).sum(0) if norm == "linf" else np.linalg.norm(normals, axis=0)
        others = [k for k in range(4) if k != y]
        distances.append(min((z[y] - z[k]) / dual[k] for k in others))

    @tf.function(autograph=False)
    def run(image, label, seed, epsilon):
        return attack(model, image, label, threat=ThreatModel(norm, epsilon), seeds=seed)

    seeds = image_seeds(0, tf.range(6))
    for i, distance in enumerate(distances):
        image, label = images[i : i + 1], tf.constant(labels[i : i + 1])
        for factor, broken in ((0.97, False), (1.08, True)):
            epsilon = tf.constant(distance * factor, tf.float32)
            x = run(image, label, seeds[i : i + 1], epsilon)
            assert (int(model(x).numpy().argmax()) != labels[i]) == broken
            np.testing.assert_array_equal(ThreatModel(norm, epsilon).violation(x, image), [0.0])


def test_jacobian_is_one_forward_pass_and_right() -> None:
    calls = []
    kernel, model = _linear()

    def counted(images):
        calls.append(1)
        return model(images)

    images = tf.random.stateless_uniform([2, 3, 3, 1], seed=[0, 0])
    _, gradients = tf.function(lambda x: logits_and_jacobian(counted, x), autograph=False)(images)
    assert len(calls) == 1
    np.testing.assert_allclose(gradients[1], kernel.T.reshape(4, 3, 3, 1), rtol=1e-6)


def test_settings_and_objectives_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="FABTargeted.num_steps is 0; give at least 1"):
        FABTargeted(num_steps=0)
    with pytest.raises(ValueError, match="FAB follows the decision boundary; give no objective"):
        FAB()(None, None, None, threat=ThreatModel(), seeds=None, objective=lambda x, z: z[:, 0])
