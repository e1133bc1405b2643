"""CW-inf, momentum, SPSA and transfer: one step by hand, CleverHans, and who crafts for whom."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method

from mtard_tf.attacks.margin import MIM, CWInf
from mtard_tf.attacks.pgd import PGD
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.attacks.spsa import SPSA
from mtard_tf.attacks.transfer import Transfer
from mtard_tf.threat import ThreatModel

KERNEL = tf.random.stateless_normal([27, 5], seed=[4, 1])


def _model(images):
    return tf.nn.softplus(3 * tf.reshape(images, [-1, 27]) - 1) @ KERNEL


def _problem(count=6):
    images = tf.random.stateless_uniform([count, 3, 3, 3], seed=[1, 1])
    labels = tf.argmax(_model(images), axis=1, output_type=tf.int32)
    return images, labels, image_seeds(0, tf.range(count))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_mim_is_cleverhans(norm, targeted) -> None:
    images, labels, seeds = _problem()
    if targeted:
        labels = (labels + 1) % 5
    threat = ThreatModel(norm, 0.1)
    ours = MIM(num_steps=7, relative_step_size=0.3, targeted=targeted)(
        _model, images, labels, threat=threat, seeds=seeds
    )
    theirs = momentum_iterative_method(
        _model, images, eps=0.1, eps_iter=0.03, nb_iter=7, norm=threat.order, clip_min=0.0,
        clip_max=1.0, y=labels, targeted=targeted, sanity_checks=False,
    )  # fmt: skip
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_cw_inf_climbs_the_margin_until_the_confidence_is_reached() -> None:
    # z = (x_0 - x_1, x_1 - x_0), label 0: the margin is 2 (x_0 - x_1), so the gradient of the loss
    # is (-2, 2) until the margin is below -confidence, and 0 from there on.
    images = tf.constant([[[[0.6]], [[0.4]]]])

    def model(images):
        difference = tf.reshape(images, [-1, 2]) @ tf.constant([[1.0], [-1.0]])
        return tf.concat([difference, -difference], axis=1)

    run = {"threat": ThreatModel("linf", 0.4), "seeds": image_seeds(0, tf.range(1))}
    one = CWInf(num_steps=1)(model, images, tf.constant([0]), **run)
    np.testing.assert_allclose(tf.reshape(one, [-1]), [0.5, 0.5], rtol=1e-6)
    # With kappa 0.3 it stops after 0.3 / 4 < 0.1, i.e. at margin 2 (0.4 - 0.6) = -0.4.
    few = CWInf(num_steps=30, confidence=0.3)(model, images, tf.constant([0]), **run)
    np.testing.assert_allclose(tf.reshape(few, [-1]), [0.4, 0.6], rtol=1e-6)
    # Kappa 50 is out of reach: it goes on to the edges of the ball.
    far = CWInf()(model, images, tf.constant([0]), **run)
    np.testing.assert_allclose(tf.reshape(far, [-1]), [0.2, 0.8], rtol=1e-6)


def test_cw_inf_defaults_are_the_papers() -> None:
    attack = CWInf()
    assert attack.start == "none"
    found = (attack.num_steps, attack.relative_step_size, attack.confidence)
    assert found == pytest.approx((30, 0.25, 50))


def test_spsa_estimates_the_gradient() -> None:
    # A linear score: the estimate is unbiased, and exact in the mean over all sign patterns.
    kernel = tf.constant(np.linspace(-1, 1, 4), tf.float32)
    attack = SPSA(num_samples=2000, chunk=300)

    def score(x, _):
        return tf.reduce_sum(tf.reshape(x, [-1, 4]) * kernel, axis=1)

    estimate = attack._estimate(
        score, tf.fill([2, 2, 2, 1], 0.5), tf.zeros([2], tf.int32), image_seeds(0, tf.range(2))
    )
    expected = np.tile(np.reshape(kernel, [1, 2, 2, 1]), [2, 1, 1, 1])
    np.testing.assert_allclose(estimate, expected, atol=0.1)


@pytest.mark.parametrize("targeted", [False, True])
def test_spsa_breaks_what_pgd_breaks(targeted) -> None:
    images, labels, seeds = _problem(4)
    aims = (labels + 1) % 5 if targeted else labels
    attack = tf.function(
        SPSA(num_steps=30, num_samples=32, learning_rate=0.05, targeted=targeted), autograph=False
    )
    x = attack(_model, images, aims, threat=ThreatModel("linf", 0.5), seeds=seeds)
    np.testing.assert_array_equal(_model(x).numpy().argmax(1) == aims.numpy(), targeted)


def test_transfer_never_asks_the_target() -> None:
    images, labels, seeds = _problem()
    run = {"threat": ThreatModel("linf", 0.1), "seeds": seeds}

    def target(images):
        raise AssertionError("the target was called")

    crafted = Transfer(_model)(target, images, labels, **run)
    direct = PGD(num_steps=20, relative_step_size=0.095625)(_model, images, labels, **run)
    np.testing.assert_array_equal(crafted, direct)
    other = Transfer(_model, CWInf())(target, images, labels, **run)
    np.testing.assert_array_equal(other, CWInf()(_model, images, labels, **run))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MIM(num_steps=0), "MIM.num_steps is 0; give at least 1"),
        (lambda: MIM(relative_step_size=0.0), "MIM.relative_step_size is 0.0; give a fraction"),
        (lambda: SPSA(delta=0.0), "SPSA.delta is 0.0; give a number above 0"),
        (lambda: Transfer("model.keras"), "Transfer.surrogate is 'model.keras'; give a function"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
