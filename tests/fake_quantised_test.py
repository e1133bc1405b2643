"""Training as an int8 file computes: what is rounded, the gradient, and that off is absent."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mtard_tf import api
from mtard_tf.distiller.fake_quantised import FakeQuantised, rounded, rounded_kernel
from mtard_tf.experiment.stage import Stage
from mtard_tf.testing import tiny_data

L = keras.layers


def _net() -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, use_bias=False)(inputs)))
    y = L.ReLU()(L.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x))
    x = L.Add()([y, L.Concatenate()([x, x])])
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(x)), name="net")


@given(st.integers(0, 2**31), st.booleans())
@settings(max_examples=20)
def test_a_kernel_has_254_steps_for_each_channel(seed, depthwise) -> None:
    kernel = np.random.default_rng(seed).normal(0, 1, (3, 3, 2, 4)).astype(np.float32)
    channels = kernel.reshape(9, -1) if depthwise else kernel.reshape(-1, 4)
    step = np.abs(channels).max(axis=0) / 127
    expected = (np.round(channels / step) * step).reshape(kernel.shape)
    found = rounded_kernel(tf.constant(kernel), depthwise)
    np.testing.assert_allclose(found, expected, atol=1.01 * step.max() * 1e-3 + 1e-6)


def test_rounding_commutes_with_the_scale_of_a_batch_norm() -> None:
    """So that a kernel may be rounded before it is folded; the sign of a scale changes nothing."""
    kernel = np.random.default_rng(0).normal(0, 1, (3, 3, 2, 4)).astype(np.float32)
    scale = np.array([0.5, -2.0, 4.0, 1.0], np.float32)
    folded = rounded_kernel(tf.constant(kernel * scale))
    np.testing.assert_allclose(folded, rounded_kernel(tf.constant(kernel)) * scale, rtol=1e-5)


def test_activations_are_rounded_between_bounds_and_gradients_go_through() -> None:
    values = tf.constant([-1.0, -0.5, 0.0, 0.2503, 1.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(values)
        found = rounded(values, tf.constant([-0.5, 2.05]))
    np.testing.assert_allclose(found, [-0.5, -0.5, 0, 0.25, 1.0, 2.05], atol=1e-6)
    np.testing.assert_array_equal(tape.gradient(found, values), [0, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(rounded(values, tf.zeros(2)), values)


def test_points_are_those_of_a_file_and_bounds_follow_training_passes() -> None:
    """Two ReLUs, the concatenation and the sum; not the convolutions, and not the logits."""
    net = _net()
    owner = keras.Model()
    quantised = FakeQuantised(net, owner)
    kinds = [type(net.get_layer(name)).__name__ for name in quantised._points]
    assert sorted(kinds) == ["Add", "Concatenate", "ReLU", "ReLU"]
    assert sorted(quantised._kernels.values()) == [False, False, True]
    images = tf.random.stateless_uniform((6, 8, 8, 3), [0, 1])
    quantised.prove(images)
    np.testing.assert_array_equal(quantised.bounds, np.zeros((4, 2)))
    weights = [variable.numpy() for variable in net.trainable_variables]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(quantised(images) ** 2)
    assert all(g is not None for g in tape.gradient(total, net.trainable_variables))
    first = quantised.bounds.numpy()
    np.testing.assert_array_less(first[:, 0], 1e-9)
    np.testing.assert_array_less(0, first[:, 1])
    quantised(images * 0.5)
    second = quantised.bounds.numpy()
    assert not np.array_equal(second, first)
    np.testing.assert_array_less(0.85 * first[:, 1], second[:, 1])
    for variable, before in zip(net.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(variable, before)
    model_fn = quantised.inference()
    np.testing.assert_array_equal(quantised.bounds, second)  # an attack does not move them
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(model_fn(images)[:, 0])
    assert np.abs(tape.gradient(total, images)).max() > 0


def test_a_net_that_cannot_be_rebuilt_is_refused() -> None:
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="Stage.quantization rebuilds the student, and own cannot"):
        FakeQuantised(Own(name="own"), keras.Model())


def test_a_stage_checks_it() -> None:
    parts = {"name": "s", "distiller": lambda: None, "model": lambda: None}
    with pytest.raises(ValueError, match="s/Stage.quantization is 'int4'; use None or 'int8'."):
        Stage(**parts, quantization="int4")
    with pytest.raises(ValueError, match="leave precision at 'float32' and attack_precision out."):
        Stage(**parts, quantization="int8", precision="mixed_bfloat16")


def test_off_is_absent_and_on_is_another_training() -> None:
    def trained(**settings) -> list[np.ndarray]:
        net = api.train(
            "pgd_at", _net(), tiny_data(24), epochs=1, epsilon=0.1, batch_size=8, **settings
        )
        return net.get_weights()

    parts = {"name": "s", "distiller": lambda: None, "model": lambda: None}
    assert Stage(**parts, quantization=None) == Stage(**parts)
    plain, on = trained(), trained(quantization="int8")
    assert any(not np.array_equal(one, other) for one, other in zip(plain, on, strict=True))
    for weight in on:
        np.testing.assert_array_less(np.abs(weight), np.inf)
