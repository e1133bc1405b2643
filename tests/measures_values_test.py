"""Measures on models that are solved by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import registry
from mtard_tf.attacks.attack import kind_of
from mtard_tf.attacks.pgd import FGSM, PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.attacks.tempered import AtTemperature
from mtard_tf.auditing.suite import Suite
from mtard_tf.measuring import distortion, sensitivity
from mtard_tf.threat import ThreatModel

CLASSES = 4
KERNEL = tf.random.stateless_normal([9, CLASSES], seed=[4, 1])
THREAT = ThreatModel("linf", 0.1)


def _linear(images):
    return tf.reshape(images, [-1, 9]) @ KERNEL


def _problem(count=3):
    images = 0.5 + 0.02 * tf.random.stateless_normal([count, 3, 3, 1], seed=[1, 1])
    return images, tf.argmax(_linear(images), axis=1, output_type=tf.int32)


def _measured(measure, model_fn=_linear, problem=None, temperature=1.0):
    images, labels = problem or _problem()
    seeds = image_seeds(0, tf.range(len(labels)))
    values = tf.function(measure, autograph=False)(
        model_fn, images, labels, threat=THREAT, seeds=seeds, temperature=temperature
    )
    return {column: value.numpy() for column, value in values.items()}


def _distances():
    """|z_y - z_k| / |w_y - w_k|_2 for every class k but the label: `[images, classes - 1]`."""
    images, labels = _problem()
    kernel, rows = KERNEL.numpy(), []
    for z, y in zip(_linear(images).numpy(), labels.numpy(), strict=True):
        others = [k for k in range(CLASSES) if k != y]
        rows.append([(z[y] - z[k]) / np.linalg.norm(kernel[:, y] - kernel[:, k]) for k in others])
    return np.array(rows)


def test_the_sum_of_logits_cancels_between_classes_and_the_jacobian_does_not() -> None:
    """For z = W x: mean_j |sum_c W_jc| and |W|_F, at every image."""
    sums = _measured(sensitivity.SumOfLogitsGradient())["value"]
    np.testing.assert_allclose(sums, [np.abs(KERNEL.numpy().sum(1)).mean()] * 3, rtol=1e-6)
    norms = _measured(sensitivity.LogitJacobian())["value"]
    np.testing.assert_allclose(norms, [np.linalg.norm(KERNEL)] * 3, rtol=1e-6)

    def centred(images):
        logits = _linear(images)
        return logits - tf.reduce_mean(logits, axis=1, keepdims=True)

    sums = _measured(sensitivity.SumOfLogitsGradient(), centred)["value"]
    np.testing.assert_allclose(sums, 0, atol=1e-6)
    expected = np.linalg.norm(KERNEL.numpy() - KERNEL.numpy().mean(1, keepdims=True))
    norms = _measured(sensitivity.LogitJacobian(), centred)["value"]
    np.testing.assert_allclose(norms, [expected] * 3, rtol=1e-6)


def _naive(logits, jacobian, temperature, dtype):
    """Rows p_i / T sum_k p_k (g_i - g_k), as written."""
    z = logits.astype(dtype) / dtype(temperature)
    p = np.exp(z - z.max())
    p /= p.sum()
    g = jacobian.astype(dtype)
    differences = g[:, None] - g[None]
    return p[:, None] * np.einsum("k,ikj->ij", p, differences) / dtype(temperature)


@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_softmax_jacobian_equals_float64_and_finite_differences(temperature) -> None:
    images, _ = _problem()
    measured = _measured(sensitivity.SoftmaxJacobian(), temperature=temperature)
    logits, rows = _linear(images).numpy(), KERNEL.numpy().T
    for t, column in ((1.0, "value"), (temperature, "at_training_temperature")):
        expected = [np.linalg.norm(_naive(z, rows, t, np.float64)) for z in logits]
        np.testing.assert_allclose(10 ** measured[column], expected, rtol=1e-5)

    def softmax(x):
        z = np.reshape(x, [-1, 9]).astype(np.float64) @ KERNEL.numpy() / temperature
        p = np.exp(z - z.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    x, step = images.numpy().reshape(-1, 9).astype(np.float64), 1e-5
    slopes = [(softmax(x + step * e) - softmax(x - step * e)) / (2 * step) for e in np.eye(9)]
    expected = np.linalg.norm(np.stack(slopes), axis=(0, 2))
    np.testing.assert_allclose(10 ** measured["at_training_temperature"], expected, rtol=1e-5)


@pytest.mark.parametrize("gap", [0.0, 5.0, 17.0, 50.0, 104.0, 500.0, 5000.0])
def test_softmax_jacobian_does_not_underflow(gap) -> None:
    """Two thirds of the row norms by hand, in units of p_2 = exp(-gap) / (1 + 2 exp(-gap)).

    Logits (gap, 0, 0), rows g: with h_k = g_k - g_0, row 0 is -p_0 p_2 (h_1 + h_2), rows 1 and 2
    are p_2 (h_k - p_2 (h_1 + h_2)); so log|J| = log p_2 + log |(...)|, a sum of ordinary numbers.
    """
    rows = np.array([[3.0, 0.1, -2.0], [-1.0, 4.0, 0.3], [0.5, -2.0, 1.0]], np.float32)
    logits = np.array([[gap, 0.0, 0.0]], np.float32)
    found = sensitivity.log10_softmax_jacobian_norm(tf.constant(logits), tf.constant(rows[None]))
    small = np.exp(-gap) / (1 + 2 * np.exp(-gap))
    ahead = rows[1:].astype(np.float64) - rows[0]
    common = ahead.sum(0)
    scaled = np.concatenate([[-(1 - 2 * small) * common], ahead - small * common])
    expected = -gap - np.log1p(2 * np.exp(-gap)) + np.log(np.linalg.norm(scaled))
    np.testing.assert_allclose(found, [expected / np.log(10)], rtol=2e-6, atol=2e-7)
    if gap < 300:  # the squares of float64 reach exp(-745)
        naive = np.linalg.norm(_naive(logits[0], rows, 1.0, np.float64))
        np.testing.assert_allclose(10.0 ** found.numpy().astype(float), [naive], rtol=1e-4)


def test_where_float32_has_no_gradient_left() -> None:
    """A gap of 50 leaves no gradient on the true logit, one of 104 no probability at all."""
    x = tf.constant([[50.0, 0.0, 0.0], [104.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits([0, 0], x)
    gradient = tape.gradient(loss, x).numpy()
    np.testing.assert_array_equal(gradient[:, 0], [0.0, 0.0])
    assert gradient[0, 1] > 0
    np.testing.assert_array_equal(tf.nn.softmax(x)[1], [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(gradient[1], [0.0, 0.0, 0.0])
    # dz/dx = identity: |J| = p_2 |rows (-2, 1, 1), (-1, 1, 0), (-1, 0, 1)| = sqrt(10) p_2.
    ours = sensitivity.log10_softmax_jacobian_norm(x, tf.eye(3, batch_shape=[2]))
    expected = (np.array([-50.0, -104.0]) + np.log(np.sqrt(10))) / np.log(10)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    # At the training's temperature, the same net has an ordinary gradient.
    soft = sensitivity.log10_softmax_jacobian_norm(x, tf.eye(3, batch_shape=[2]), 100.0)
    np.testing.assert_allclose(
        10 ** soft.numpy(),
        [np.linalg.norm(_naive(z, np.eye(3), 100.0, np.float64)) for z in x.numpy()],
        rtol=1e-5,
    )


def test_a_constant_model_has_no_jacobian() -> None:
    logits, rows = tf.constant([[1.0, 0.0]]), tf.zeros([1, 2, 5])
    assert sensitivity.log10_softmax_jacobian_norm(logits, rows).numpy() == [-np.inf]


def test_every_target_but_the_label() -> None:
    images = tf.constant([[1.0], [2.0]])
    tiled, targets = distortion.every_target(images, tf.constant([0, 2]), 4)
    np.testing.assert_array_equal(tiled[:, 0], [1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(targets, [1, 2, 3, 0, 1, 3])


def test_cw_distortion_is_the_distance_to_the_targets_of_a_linear_model() -> None:
    """Logits are 100 times those of other tests: the first constant follows the slope."""
    measure = distortion.CWDistortion(
        num_steps=150, search_steps=5, learning_rate=0.02, initial_constant=None
    )
    nearest = _target_distances().mean(1)
    found = _measured(measure, lambda x: 100.0 * _linear(x))
    np.testing.assert_array_equal(found["success_rate"], [1.0] * 3)
    np.testing.assert_allclose(found["value"], nearest, rtol=0.05)
    np.testing.assert_array_less(0.999 * nearest, found["value"])


def _target_distances():
    """Least |d| with z_t + <w_t, d> >= every other, by quadratic programming's dual ascent."""
    images, labels = _problem()
    kernel, rows = KERNEL.numpy().astype(np.float64), []
    for z, y in zip(_linear(images).numpy().astype(np.float64), labels.numpy(), strict=True):
        row = []
        for t in (k for k in range(CLASSES) if k != y):
            others = [k for k in range(CLASSES) if k != t]
            normals, missing = (kernel[:, [t]] - kernel[:, others]).T, z[others] - z[t]
            weights = np.zeros(len(others))
            for _ in range(3000):  # Gauss-Seidel on the dual, one constraint at a time
                for i, normal in enumerate(normals):
                    short = missing[i] - normal @ (normals.T @ weights)
                    weights[i] = max(weights[i] + short / (normal @ normal), 0)
            row.append(np.linalg.norm(normals.T @ weights))
        rows.append(row)
    return np.array(rows)


def test_a_target_that_is_predicted_already_has_distance_0() -> None:
    images, labels = _problem()
    measure = distortion.CWDistortion(num_steps=5, search_steps=1, initial_constant=1e-6)
    found = _measured(measure, problem=(images, (labels + 1) % CLASSES))
    # One of three targets is the prediction; the two others are not reached, and not counted.
    np.testing.assert_allclose(found["success_rate"], [1 / 3] * 3)
    np.testing.assert_array_equal(found["value"], [0.0] * 3)
    np.testing.assert_array_equal(_measured(measure)["value"], np.nan)


def test_jsma_counts_changed_pixels_and_the_limit_where_it_fails() -> None:
    """Each of pixels 0-3 speaks for a class of its own: a pair cannot be had for less than 2.

    Image 0 has 0.5 for class 0 against 0 for the others: raising pixel t to 1 wins. JSMA moves two
    pixels at a time. The last class gains nothing from any pixel and is never reached.
    """
    weights = np.zeros((16, CLASSES), np.float32)
    weights[0, 0] = weights[1, 1] = weights[2, 2] = 1.0
    weights[4:, 0] = -0.01  # brightening these helps all others a little

    def model_fn(images):
        return tf.reshape(images, [-1, 16]) @ weights

    images = np.zeros((1, 4, 4, 1), np.float32)
    images[0, 0, 0] = 0.5
    problem = tf.constant(images), tf.constant([0])
    found = _measured(distortion.JSMAFeatures(max_fraction=0.25), model_fn, problem)
    np.testing.assert_allclose(found["success_rate"], [2 / 3])
    # 2 of 16 pixels for two targets, and 2 pairs of 16, the limit, for the third.
    np.testing.assert_allclose(found["value"], [(2 / 16 + 2 / 16 + 4 / 16) / 3])


def test_deepfool_is_relative_and_of_right_images_only() -> None:
    images, labels = _problem()
    labels = tf.concat([labels[:2], (labels[2:] + 1) % CLASSES], axis=0)
    found = _measured(distortion.DeepFoolRobustness(), problem=(images, labels))
    sizes = np.linalg.norm(np.reshape(images, [3, -1]), axis=1)
    expected = 1.02 * _distances().min(1) / sizes
    np.testing.assert_allclose(found["value"][:2], expected[:2], rtol=1e-2)
    np.testing.assert_array_equal(found["success_rate"], [1, 1, np.nan])
    assert np.isnan(found["value"][2])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: distortion.CWDistortion(num_steps=0), "CWL2.num_steps is 0"),
        (lambda: distortion.CWDistortion(initial_constant=0.0), "CWL2.initial_constant is 0.0"),
        (lambda: distortion.JSMAFeatures(theta=0), "JSMA.theta is 0"),
        (lambda: distortion.DeepFoolRobustness(num_steps=0), "DeepFool.num_steps is 0"),
        (lambda: AtTemperature(temperature=0), "AtTemperature.temperature is 0; give a number"),
        (
            lambda: Suite({"a": FGSM()}, measures={"m": sensitivity.LogitJacobian}),
            r"Suite.measures\['m'\] is .*with its brackets",
        ),
        (
            lambda: Suite({"a": FGSM()}, measures={"a": sensitivity.LogitJacobian()}),
            "Suite has the name 'a' twice",
        ),
    ],
)
def test_what_means_nothing_is_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_suite_fills_in_the_training_temperature() -> None:
    own = AtTemperature(FGSM(), 3.0)
    suite = Suite({"a": FGSM(), "b": AtTemperature(), "c": own}).at_temperature(40.0)
    assert suite.attacks == {"a": FGSM(), "b": AtTemperature(temperature=40.0), "c": own}
    assert suite.at_temperature(2.0) == suite
    assert kind_of(suite.attacks["b"]) == "gradient"


def test_a_suite_prints_as_before_measures_were_there() -> None:
    suite = Suite({"a": FGSM()}, measures={"m": sensitivity.LogitJacobian()})
    assert repr(suite) == repr(Suite({"a": FGSM()}))
    assert suite.without(["m"]) == Suite({"a": FGSM()})


def test_every_measure_says_what_its_columns_are() -> None:
    names = registry.names("measures")
    assert set(names) >= {"cw_l2_distortion", "jsma_features", "softmax_jacobian"}
    for name in names:
        measure = registry.get("measures", name)()
        assert measure.examples is None
        assert all(len(text) > 20 for text in measure.columns.values())
        assert next(iter(measure.columns)) == "value"


def test_tempered_is_pgd_on_softened_logits() -> None:
    images, labels = _problem()
    seeds = image_seeds(0, tf.range(3))
    pgd = PGD(num_steps=3, relative_step_size=0.25)
    arguments = {"threat": THREAT, "seeds": seeds}
    direct = pgd(lambda x: _linear(x) / 5.0, images, labels, **arguments)
    wrapped = dataclasses.replace(AtTemperature(pgd), temperature=5.0)
    np.testing.assert_array_equal(wrapped(_linear, images, labels, **arguments), direct)
    plain = AtTemperature(pgd)(_linear, images, labels, **arguments)
    np.testing.assert_array_equal(plain, pgd(_linear, images, labels, **arguments))
