"""APGD: its checkpoints and halvings step by step, its targets, and what leaves the batch."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import seeds as random
from mtard_tf.attacks.apgd import APGD, APGDDLR, APGDCrossEntropy, APGDTargeted
from mtard_tf.attacks.apgd_run import checkpoints
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.threat import ThreatModel

SHAPE = (4, 4, 1)


def _linear(classes, seed=0):
    kernel = tf.random.stateless_normal([16, classes], seed=[seed, 1])
    return lambda images: tf.reshape(images, [-1, 16]) @ kernel


def _images(count, seed=0):
    return tf.random.stateless_uniform([count, *SHAPE], seed=[seed, 2])


def test_checkpoints_are_the_paper_s() -> None:
    # Windows 22, then 3 shorter each, never below 6: 22 19 16 13 10 7 6 6 ...
    np.testing.assert_array_equal(checkpoints(100), [22, 41, 57, 70, 80, 87, 93, 99])
    np.testing.assert_array_equal(checkpoints(10), np.arange(2, 11))


def _oracle(gradient, value, clean, start, threat, steps):
    """Algorithm 1 of the paper on one image, in NumPy; also returns the steps that halved."""

    def project(x):
        return threat.project(tf.constant(x[None]), tf.constant(clean[None])).numpy()[0]

    def direction(g):
        return np.sign(g) if threat.norm == "linf" else g / np.linalg.norm(g)

    x = before = best = start
    history, step, best_value = [value(x)], np.float32(2 * threat.epsilon), value(x)
    marks, halvings, last, last_best, last_step = checkpoints(steps), [], 0, best_value, None
    for k in range(1, steps + 1):
        momentum = np.float32(1.0 if k == 1 else 0.75)
        z = project(x + step * direction(gradient(x)))
        x, before = project(x + momentum * (z - x) + (1 - momentum) * (x - before)), x
        history.append(value(x))
        if history[-1] > best_value:
            best, best_value = x, history[-1]
        if k in marks:
            rises = sum(history[i] > history[i - 1] for i in range(last + 1, k + 1))
            halve = rises <= 0.75 * (k - last)
            halve |= last_step == step and last_step is not None and last_best >= best_value
            last, last_step, last_best = k, step, best_value
            if halve:
                halvings.append(k)
                step, x = step / 2, best
    return best, halvings


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_step_is_algorithm_1(norm) -> None:
    threat = ThreatModel(norm, 0.3 if norm == "linf" else 0.8)
    count = 3
    images, seeds = _images(count), image_seeds(0, tf.range(count))
    peak = tf.random.stateless_uniform(SHAPE, seed=[5, 5]).numpy()
    curve = np.linspace(0.5, 30.0, 16, dtype=np.float32).reshape(SHAPE)

    def objective(x, _):
        return -tf.reduce_sum(curve * tf.square(x - peak), axis=[1, 2, 3])

    attack = APGDCrossEntropy(num_steps=100)
    got = attack(
        _linear(3), images, tf.zeros([count], tf.int32), threat=threat, seeds=seeds,
        objective=objective,
    )  # fmt: skip
    draw = random.uniform if norm == "linf" else random.normal
    noise = draw(random.fold(seeds, 0), SHAPE).numpy()
    halved = 0
    for i, clean in enumerate(images.numpy()):
        offset = 2 * noise[i] - 1 if norm == "linf" else noise[i]
        size = np.abs(offset).max() if norm == "linf" else np.linalg.norm(offset)
        start = np.clip(clean + np.float32(threat.epsilon) * offset / size, 0, 1)
        best, halvings = _oracle(
            lambda x: -2 * curve * (x - peak),
            lambda x: float(-np.sum(curve * (x - peak) ** 2)),
            clean, start.astype(np.float32), threat, 100,
        )  # fmt: skip
        np.testing.assert_allclose(got[i], best, atol=2e-4)
        halved += len(halvings)
    assert halved > 6


def test_starts_on_the_boundary_of_the_ball() -> None:
    # A flat objective never moves the best point from the start.
    images, threat = tf.fill([4, *SHAPE], 0.5), ThreatModel("linf", 0.2)
    start = APGDCrossEntropy(num_steps=1)(
        _linear(3), images, tf.zeros([4], tf.int32), threat=threat,
        seeds=image_seeds(0, tf.range(4)), objective=lambda x, _: tf.reduce_sum(0 * x, [1, 2, 3]),
    )  # fmt: skip
    distance = tf.reduce_max(tf.abs(start - images), axis=[1, 2, 3])
    np.testing.assert_allclose(distance, 0.2, rtol=1e-6)


def test_targets_are_the_likeliest_wrong_classes_and_no_more_than_there_are() -> None:
    seen = []
    logits = tf.constant([[9.0, 1.0, 5.0, 3.0]])

    def model_fn(images):
        # Robust: whatever the image, the same logits; the tiny term keeps a gradient path.
        return tf.repeat(logits, tf.shape(images)[0], 0) + 1e-9 * tf.reduce_sum(images)

    original = losses.dlr_targeted

    def spy(logits, labels, targets):
        seen.append(targets)
        return original(logits, labels, targets)

    patch = pytest.MonkeyPatch()
    patch.setattr("mtard_tf.losses.dlr_targeted", spy)
    try:
        APGDTargeted(num_steps=1)(
            model_fn, _images(1), tf.constant([0]), threat=ThreatModel(),
            seeds=image_seeds(0, tf.range(1)),
        )  # fmt: skip
    finally:
        patch.undo()
    # Two evaluations (start and step) for each of the three wrong classes of four.
    np.testing.assert_array_equal([t[0] for t in seen], [2, 2, 3, 3, 1, 1])


def test_images_leave_the_batch_as_they_fall() -> None:
    batches = []
    model = _linear(4)

    def model_fn(images):
        batches.append(int(images.shape[0]))
        return model(images)

    images = _images(32)
    labels = tf.argmax(model(images), axis=1, output_type=tf.int32)
    labels = tf.where(tf.range(32) < 8, (labels + 1) % 4, labels)
    result = APGDCrossEntropy(num_steps=20)(
        model_fn, images, labels, threat=ThreatModel("linf", 0.05),
        seeds=image_seeds(0, tf.range(32)),
    )  # fmt: skip
    # 32 to see which are wrong already (8), 24 to start, and ever fewer.
    assert batches[:2] == [32, 24]
    np.testing.assert_array_less(np.diff(batches), 1)
    assert batches[-1] < 24
    np.testing.assert_array_equal(result[:8], images[:8])


def test_restarts_keep_the_lowest_margin() -> None:
    model, images = _linear(5, seed=3), _images(16)
    labels = tf.argmax(model(images), axis=1, output_type=tf.int32)
    run = {"threat": ThreatModel("linf", 0.03), "seeds": image_seeds(0, tf.range(16))}

    def margins(restarts):
        attack = APGDDLR(num_steps=3, restarts=restarts)
        return losses.margin(model(attack(model, images, labels, **run)), labels).numpy()

    one, three = margins(1), margins(3)
    np.testing.assert_array_less(three, np.where(one < 0, np.inf, one + 1e-6))


def test_expectation_over_transformation_averages_gradients() -> None:
    calls = []
    model, images = _linear(4), _images(4)

    def model_fn(images):
        calls.append(1)
        return model(images)

    labels = tf.argmax(model(images), axis=1, output_type=tf.int32)
    run = {"threat": ThreatModel("linf", 0.02), "seeds": image_seeds(0, tf.range(4))}
    averaged = APGDCrossEntropy(num_steps=3, eot_samples=5)(model_fn, images, labels, **run)
    # One call on the clean images, then 5 for the start and each of 3 steps.
    assert len(calls) == 1 + 5 * 4
    plain = APGDCrossEntropy(num_steps=3)(model, images, labels, **run)
    np.testing.assert_allclose(averaged, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("attack", "classes", "message"),
    [
        (APGDDLR(2), 2, "dlr loss needs at least 3 classes and got 2"),
        (APGDTargeted(2), 3, "dlr_targeted loss needs at least 4 classes and got 3"),
    ],
)
def test_dlr_names_the_missing_classes(attack, classes, message) -> None:
    model, images = _linear(classes), _images(2)
    labels = tf.argmax(model(images), axis=1, output_type=tf.int32)
    with pytest.raises(ValueError, match=message):
        attack(model, images, labels, threat=ThreatModel(), seeds=image_seeds(0, tf.range(2)))


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="APGD.loss is 'hinge'; use one of ce, dlr, dlr_targeted"):
        APGD(loss="hinge")
    with pytest.raises(ValueError, match="APGDCrossEntropy.num_steps is 0; give at least 1"):
        APGDCrossEntropy(num_steps=0)
