"""MixedNUTS: the mixture's values by hand, its gradient, its fit, and what it refuses."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import api
from mtard_tf.attacks.pgd import PGD
from mtard_tf.auditing.suite import Suite
from mtard_tf.data.image_data import ImageData, Split
from mtard_tf.mixing.mix import Nonlinearity, fit, mix, mixed, transformed
from mtard_tf.models import model_files


def _net(bias, slope: float = 0.0) -> keras.Model:
    """Logits `bias + slope * (first pixel, its negative)`; named as any other net."""
    net = keras.Sequential(
        [keras.Input((1, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(2)], name="net"
    )
    net.set_weights([np.array([[slope, -slope]], "f"), np.array(bias, "f")])
    return net


def _gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def test_transformed_and_mixed_by_hand() -> None:
    # Two logits z and -z are normalised to 1/sqrt(2) and its negative, whatever z.
    logits = tf.constant([[3.0, -3.0], [0.5, -0.5]])
    v = [_gelu(sign / math.sqrt(2) - 0.1) for sign in (1, -1)]
    expected = [2 * math.copysign(abs(x) ** 3, x) for x in v]
    np.testing.assert_allclose(transformed(logits, 2, 3, -0.1), [expected] * 2, rtol=1e-5)
    odds = math.exp(expected[0] - expected[1])
    p = odds / (1 + odds)
    clean = tf.constant([[0.0, 1.0], [1.0, 0.0]])
    found = np.exp(mixed(clean, logits, Nonlinearity(2, 3, -0.1, 0.6)))
    np.testing.assert_allclose(
        found, [[0.6 * p, 0.6 * (1 - p) + 0.4], [0.6 * p + 0.4, 0.6 * (1 - p)]], rtol=1e-5
    )
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


def test_more_classes_than_are_normalised() -> None:
    logits = np.zeros((1, 252), "f")
    logits[0, :126] = 1.0  # of the 250 largest, 126 are 1
    mean, variance = 126 / 250, 126 / 250 * 124 / 250 * 250 / 249
    v = _gelu((1 - mean) / math.sqrt(variance))
    np.testing.assert_allclose(transformed(tf.constant(logits), 1, 2, 0.0)[0, 0], v**2, rtol=1e-5)


def test_attacks_see_both_nets() -> None:
    """The gradient is the surrogate's, of which a tenth is the clean net's."""
    image = tf.constant([[[[0.0]]]])
    net = mix(
        (1, 1, 1),
        2,
        clean=_net([0, 1], slope=1.0),
        robust=_net([1, 0]),
        scale=1.0,
        power=2.0,
        shift=0.0,
        alpha=0.9,
    )
    with tf.GradientTape() as tape:
        tape.watch(image)
        first = net(image)[0, 0]
    gradient = float(tape.gradient(first, image)[0, 0, 0, 0])
    p, q = 1 / (1 + math.e), 1 / (1 + 1 / math.e)
    value = np.array(transformed(tf.constant([[1.0, 0.0]]), 1, 2, 0))[0]
    f = 1 / (1 + math.exp(value[1] - value[0]))
    slope = 0.1 * p * (1 - p) * 2 / (0.1 * p + 0.9 * (0.9 * q + 0.1 * f))
    assert gradient == pytest.approx(slope, rel=1e-4)


def test_fit_by_hand() -> None:
    """The robust net errs where it is unsure, so that the clean one may overrule it there."""
    sure, unsure = [4.0, 0, 0], [1.0, 0.9, 0]
    robust = np.array([sure, sure, unsure, unsure], "f")
    clean = np.array([sure, sure, [0, 4, 0], [0, 4, 0]], "f")
    labels = np.array([0, 0, 1, 1])
    attacked = np.array([[3.9, 0, 0], [4.1, 0, 0], unsure, unsure], "f")
    grid = [(1.0, 1.0, 0.0), (5.0, 2.0, 0.0)]
    chosen = fit(clean, robust, attacked, labels, grid=grid)
    # Both leave no error that cannot be overruled; the first is kept.
    np.testing.assert_array_equal(chosen[:3], (1.0, 1.0, 0.0))
    answers = tf.nn.softmax(transformed(tf.constant([sure]), 1, 1, 0))[0].numpy()
    assert chosen.alpha == pytest.approx(1 / (1 + answers[0] - answers[1]), rel=1e-4)
    together = mixed(tf.constant(clean), tf.constant(robust), chosen)
    np.testing.assert_array_equal(np.argmax(together, 1), labels)
    with pytest.raises(ValueError, match="gets 0 of 4 attacked images right; give a percentage"):
        fit(clean, robust, attacked, 1 - labels + 1)


def test_a_file_of_it_loads_without_the_package(tmp_path) -> None:
    paths = {"clean": tmp_path / "clean.keras", "robust": tmp_path / "robust.keras"}
    for (_, path), bias in zip(paths.items(), ([0, 1], [3, 0]), strict=True):
        _net(bias).save(path)
    settings = {"scale": 5.0, "power": 4.0, "shift": -0.1, "alpha": 0.55}
    net = mix((1, 1, 1), 2, **{role: str(path) for role, path in paths.items()}, **settings)
    assert not net.trainable_variables
    net.save(tmp_path / "mix.keras")
    images = np.random.default_rng(0).random((3, 1, 1, 1), "f")
    again = model_files.load(tmp_path / "mix.keras")
    np.testing.assert_array_equal(again(images), net(images))
    net.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(images), net(images), rtol=1e-6)


def test_refused() -> None:
    nets = {"clean": _net([0, 1]), "robust": _net([0, 1])}
    settings = {"scale": 1.0, "power": 2.0, "shift": 0.0}
    with pytest.raises(ValueError, match=r"alpha 1.0; give a scale above 0, a power of at least"):
        mix((1, 1, 1), 2, **nets, **settings, alpha=1.0)
    with pytest.raises(ValueError, match="net has 2 classes and the data set 3"):
        mix((1, 1, 1), 3, **nets, **settings, alpha=0.9)


def test_its_audit_says_what_attacks_on_the_robust_net_alone_miss() -> None:
    """What fools the robust net makes the clean one surer."""
    images = np.full((8, 1, 1, 1), 128, np.uint8)
    split = Split(images, np.zeros(8, np.int32))
    data = ImageData("grey", ("a", "b"), split, split, split)
    nets = {"clean": _net([-1, 1], slope=4.0), "robust": _net([0, 0.1], slope=-0.01)}
    net = mix((1, 1, 1), 2, **nets, scale=1.0, power=1.0, shift=0.0, alpha=0.55)
    probe = PGD(num_steps=20, relative_step_size=0.25)
    suite = Suite({"pgd": probe}, probe=probe, probe_examples=8)
    report = api.audit(net, data, epsilon=0.5, suite=suite)
    found = next(f for f in report["findings"] if f["name"] == "mixture")
    assert found["severity"] == "note"
    assert found["values"] == pytest.approx({"adaptive": 0, "robust_net_alone": 1})
    assert "of two nets: the iterated attack leaves 0.0% where it sees" in found["evidence"]
    assert "mixture" in report["verdict"]
    assert report["parameters"] == sum(part.count_params() for part in nets.values())
    plain = api.audit(nets["clean"], data, epsilon=0.5, suite=suite)
    assert all(f["name"] != "mixture" for f in plain["findings"])
