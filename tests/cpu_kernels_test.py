"""The strided convolution against TensorFlow's, and the type that BatchNorm computes in."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import mtard_tf as mt
from mtard_tf.models.cpu_kernels import StridedConv2D, convolution, has_fast_gradient
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.models.precision import with_precision


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("size", "width", "stride"),
    [
        ((6, 6), 3, 2),
        ((7, 6), 3, 2),
        ((8, 9), 2, 2),
        ((9, 8), 5, 3),
        ((7, 7), 1, 2),
        ((8, 5), 4, 4),
    ],
)
def test_gradients_equal_tensorflow_s(size, width, stride, padding) -> None:
    numbers = np.random.RandomState(0)
    images = tf.constant(numbers.randn(2, *size, 3))  # float64: only the order of sums differs
    kernel = tf.constant(numbers.randn(width, width, 3, 5))

    def both(function):
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            answer = function(images, kernel)
            loss = tf.reduce_sum(tf.sin(answer))
        return [answer, *tape.gradient(loss, [images, kernel])]

    ours = both(lambda x, w: convolution(x, w, stride, padding))
    theirs = both(lambda x, w: tf.nn.conv2d(x, w, stride, padding.upper()))
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_the_gradient_s_own_gradient_equals_tensorflow_s() -> None:
    numbers = np.random.RandomState(1)
    images, kernel = tf.constant(numbers.randn(2, 6, 6, 1)), tf.constant(numbers.randn(3, 3, 1, 4))

    def second(function):
        with tf.GradientTape() as outer:
            outer.watch([images, kernel])
            with tf.GradientTape() as inner:
                inner.watch(images)
                loss = tf.reduce_sum(function(images, kernel) ** 3)
            slope = tf.reduce_sum(inner.gradient(loss, images) ** 2)
        return outer.gradient(slope, [images, kernel])

    ours = second(lambda x, w: convolution(x, w, 2, "valid"))
    theirs = second(lambda x, w: tf.nn.conv2d(x, w, 2, "VALID"))
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-9)


def test_attacks_see_the_same_net_through_a_strided_stem() -> None:
    net = mt.models.small_cnn((12, 12, 1), 4, widths=(4, 6), dense=8)
    images = tf.random.stateless_uniform((5, 12, 12, 1), [0, 1])
    folded = FoldedInference(net)
    folded.prove(images)
    assert folded.proven
    assert [type(layer) for layer in folded.net().layers].count(StridedConv2D) == 1

    assert FoldedInference(net, attacked=False).net() is net  # what is exported is Keras' own

    def slope(model_fn):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = model_fn(images)
        return logits, tape.gradient(logits, images)

    for found, expected in zip(slope(folded()), slope(net), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"strides": 1}, False),
        ({"strides": (2, 1)}, False),
        ({"filters": 6, "groups": 3}, False),
    ],
)
def test_only_strided_convolutions_of_few_channels_are_replaced(options, expected) -> None:
    layer = keras.layers.Conv2D(**{"filters": 4, "kernel_size": 3, "strides": 2, **options})
    layer.build((None, 8, 8, 3))
    assert has_fast_gradient(layer) is expected
    wide = keras.layers.Conv2D(4, 3, 2)
    wide.build((None, 8, 8, 5))
    assert not has_fast_gradient(wide)


@pytest.mark.parametrize(
    ("policy", "channels", "expected"),
    [
        ("mixed_bfloat16", 24, tf.float32),
        ("mixed_bfloat16", 32, tf.bfloat16),
        ("float32", 24, tf.float32),
    ],
)
def test_a_batch_is_normalised_in_the_fastest_type(policy, channels, expected) -> None:
    inputs = keras.Input([4, 4, channels])
    plain = keras.Model(inputs, keras.layers.BatchNormalization()(inputs))
    images = tf.random.stateless_uniform([8, 4, 4, channels], [0, 1])
    answer = FusedTraining(plain)(images)
    statistics = [v.numpy() for v in plain.non_trainable_variables]

    model = with_precision(keras.models.clone_model(plain), policy)
    fused = FusedTraining(model)
    traced = tf.function(lambda x: fused(x)).get_concrete_function(images)
    (norm,) = [op for op in traced.graph.get_operations() if op.type == "FusedBatchNormV3"]
    assert norm.get_attr("T") == expected
    found = traced(images)
    assert found.dtype == model.output.dtype
    np.testing.assert_allclose(tf.cast(found, tf.float32), answer, atol=0.02)
    for ours, wanted in zip(model.non_trainable_variables, statistics, strict=True):
        np.testing.assert_allclose(ours.numpy(), wanted, atol=2e-3)
