"""Attacks see the gradient of a sure net in half precision, and the same bits as before in full."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import gradients
from mtard_tf.attacks.apgd import APGD
from mtard_tf.attacks.carlini_wagner import CWL2
from mtard_tf.attacks.jsma import JSMA
from mtard_tf.attacks.margin import MIM
from mtard_tf.attacks.pgd import FGSM, PGD, input_gradient
from mtard_tf.attacks.tempered import AtTemperature
from mtard_tf.models.precision import with_precision
from mtard_tf.threat import ThreatModel

IMAGES = tf.random.stateless_uniform((64, 8, 8, 1), (0, 1))
LINF, L2 = ThreatModel("linf", 0.1), ThreatModel("l2", 0.8)
SEEDS = tf.stack([tf.range(64), tf.range(64)], axis=1)


@pytest.fixture(scope="module")
def net():
    """Gaps of about 20 between the two largest logits: p - y is near 1e-9."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Conv2D(8, 3, activation="relu")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    kernel = model.layers[-1].kernel
    kernel.assign(60.0 * kernel)
    return model


@pytest.fixture(scope="module")
def labels(net):
    return tf.argmax(net(IMAGES), axis=1, output_type=tf.int32)


def _standing(net, attacked, labels, attack, threat):
    def run(x, y, s):
        return attack(attacked, x, y, threat=threat, seeds=s)

    if isinstance(attack, CWL2):  # of many steps; the others take less than their tracing
        run = tf.function(run, autograph=False)
    predicted = np.asarray(net(run(IMAGES, labels, SEEDS))).argmax(axis=1)
    return int((predicted == np.asarray(labels)).sum())


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        (FGSM(), LINF),
        (PGD(), LINF),
        (PGD(), L2),
        (MIM(), L2),
        (AtTemperature(PGD(num_steps=3), 2.0), LINF),
        (APGD("ce", num_steps=3, eot_samples=2), LINF),
        (CWL2(num_steps=40, search_steps=3, learning_rate=0.05), L2),
        (JSMA(temperature=1.0), ThreatModel("linf", 1.0)),
    ],
    ids=lambda value: getattr(value, "norm", type(value).__name__),
)
def test_half_precision_hides_nothing(net, labels, attack, threat):
    full = _standing(net, net, labels, attack, threat)
    half = _standing(net, with_precision(net, "mixed_float16"), labels, attack, threat)
    assert full < 50  # of 64: it does break something
    assert half == pytest.approx(full, abs=2)


def test_no_gradient_of_a_sure_net_is_0_in_half_precision(net, labels):
    half = with_precision(net, "mixed_float16")
    with tf.GradientTape() as tape:
        tape.watch(IMAGES)
        loss = losses.cross_entropy(half(IMAGES), labels)
    plain = np.abs(tape.gradient(loss, IMAGES)).max(axis=(1, 2, 3))
    assert (plain == 0).sum() > 30  # what an attack had to go by
    true = np.abs(_cross_entropy_gradient(net, labels)).max(axis=(1, 2, 3))
    ours = np.abs(_cross_entropy_gradient(half, labels)).max(axis=(1, 2, 3))
    np.testing.assert_array_less(0, ours[true > 0])
    likely = true > 1e-30
    np.testing.assert_allclose(np.log(ours[likely]), np.log(true[likely]), atol=0.5)


def _cross_entropy_gradient(model, labels):
    return input_gradient(model, IMAGES, lambda _, z: losses.cross_entropy(z, labels)).numpy()


def test_full_precision_keeps_its_bits(net, labels):
    with tf.GradientTape() as tape:
        tape.watch(IMAGES)
        loss = losses.cross_entropy(net(IMAGES), labels)
    plain = tape.gradient(loss, IMAGES).numpy()
    normal = np.abs(plain).min(axis=(1, 2, 3)) > 1e-30
    assert normal.sum() > 30
    ours = _cross_entropy_gradient(net, labels)
    np.testing.assert_array_equal(ours[normal], plain[normal])
    slope = gradients.slope(net, IMAGES, lambda _, z: losses.cross_entropy(z, labels))
    np.testing.assert_array_equal(slope.loss, loss)
    np.testing.assert_array_equal(np.sign(slope.gradient)[normal], np.sign(plain)[normal])


def test_scales_are_powers_of_two_by_image_or_for_all():
    sent_back = tf.constant([[3e-9, -1e-12], [0.0, 0.0], [-0.75, 0.5], [2e-38, 0.0], [5.0, 1.0]])
    scale = gradients.scale_of(sent_back).numpy()
    np.testing.assert_array_equal(scale, [2.0**29, 1.0, 2.0, 2.0**126, 0.25])
    np.testing.assert_array_equal(gradients.scale_of(sent_back, together=True), [0.25] * 5)


def test_images_that_share_statistics_share_a_scale(labels):
    def mixed(images):
        centred = tf.reshape(images - tf.reduce_mean(images, axis=0), (64, 64))
        return centred @ tf.reshape(tf.range(256.0) / 128 - 1, (64, 4))

    mixed.mixes_images = True

    def objective(_, logits):
        return losses.cross_entropy(logits, labels) * tf.where(tf.range(64) < 32, 1e-6, 1.0)

    with tf.GradientTape() as tape:
        tape.watch(IMAGES)
        loss = objective(IMAGES, mixed(IMAGES))
    plain = tape.gradient(loss, IMAGES)
    np.testing.assert_array_equal(input_gradient(mixed, IMAGES, objective), plain)
    softened = []

    def attack(model_fn, images, *_, **__):
        softened.append(model_fn)
        return images

    AtTemperature(attack, 2.0)(mixed, IMAGES, labels, threat=ThreatModel(), seeds=SEEDS)
    assert gradients.mixes_images(softened[0]) and not gradients.mixes_images(tf.identity)


@pytest.mark.parametrize("attack", [PGD(), APGD("ce", num_steps=4), CWL2(num_steps=4)])
def test_without_any_gradient_an_attack_stays_inside(net, labels, attack):
    flat = tf.function(lambda x: net(tf.round(x * 255) / 255))
    perturbed = attack(flat, IMAGES, labels, threat=LINF, seeds=SEEDS)
    np.testing.assert_allclose(LINF.violation(perturbed, IMAGES), 0, atol=1e-6)
