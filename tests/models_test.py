"""Parameter counts, and the two fast forms of a model against the model itself."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.models.folding import FoldedInference, _foldable
from mtard_tf.models.fused import FusedTraining
from mtard_tf.models.layers import batch_norm, conv, depthwise_conv, image_input
from mtard_tf.models.pre_activation import preact_resnet18, wide_resnet
from mtard_tf.models.resnet_cifar import (
    resnet8,
    resnet18,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet_cifar,
)
from mtard_tf.models.small_cnn import small_cnn


def trained_parameters(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.parametrize(
    ("model", "classes", "parameters"),
    [
        (resnet18, 10, 11_173_962),
        (resnet18, 100, 11_220_132),
        (resnet56, 10, 855_770),
        (resnet56, 100, 861_620),
        (partial(resnet56, shortcut="A"), 10, 853_018),  # its shortcuts have none
    ],
)
def test_parameter_counts_of_the_papers(model, classes, parameters):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone
        assert trained_parameters(model((32, 32, 3), classes)) == parameters


@pytest.mark.parametrize("size", [28, 32, 64])
def test_sizes_and_depths(size):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone
        for model in (resnet8, resnet20, resnet32, resnet44):
            assert model((size, size, 3), 7).output_shape == (None, 7)


def _messy(model: keras.Model) -> keras.Model:
    """Random BatchNorm statistics, so that a folding error cannot hide."""
    random = np.random.RandomState(0)
    for variable in model.variables:
        if any(part in variable.path for part in ("gamma", "variance")):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif any(part in variable.path for part in ("beta", "mean")):
            variable.assign(random.uniform(-0.5, 0.5, variable.shape))
    return model


def _depthwise() -> keras.Model:
    images, x = image_input((16, 16, 3), "raw")
    x = batch_norm(depthwise_conv(conv(x, 6, 1, name="expand"), 2, name="depth"), name="bn")
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=True, name="double")(x)
    x = keras.layers.GlobalAveragePooling2D()(batch_norm(x, name="double_bn"))
    return keras.Model(images, keras.layers.Dense(10)(x), name="depthwise")


SHAPE = (16, 16, 3)
STATISTICS = ((0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
MODELS = {
    "resnet20_b": lambda: resnet20(SHAPE, 10, width=8),
    "resnet20_a": lambda: resnet20(SHAPE, 10, width=8, shortcut="A", normalization=STATISTICS),
    "small_cnn_bn": lambda: small_cnn(SHAPE, 10, batch_normalization=True),
    "small_cnn": lambda: small_cnn(SHAPE, 10, dense=0),
    # BatchNorm before convolutions is not folded, and after them it is.
    "wide_resnet": lambda: wide_resnet(SHAPE, 10, depth=10, width=1, asymmetric=True),
    "preact_resnet18": lambda: preact_resnet18(SHAPE, 10, width=4),
    "depthwise": _depthwise,
}


@pytest.mark.parametrize("name", MODELS)
def test_folded_inference_equals_the_model(name):
    model = _messy(MODELS[name]())
    images = tf.random.stateless_uniform([4, 16, 16, 3], [0, 1])
    fold = FoldedInference(model)
    expected = model(images, training=False).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(fold()(images), expected, atol=2e-6 * scale, rtol=1e-4)
    model.trainable_variables[0].assign(model.trainable_variables[0] * 1.5)
    changed = model(images, training=False).numpy()
    assert np.abs(changed - expected).max() > 1e-3 * scale
    np.testing.assert_allclose(fold()(images), changed, atol=3e-6 * scale, rtol=1e-4)


def test_what_is_folded():
    assert _foldable(MODELS["depthwise"]()) == {"depth": "bn", "double": "double_bn"}
    pairs = _foldable(MODELS["wide_resnet"]())
    assert pairs == {f"stage{n}_block1_conv1": f"stage{n}_block1_bn2" for n in (1, 2, 3)}


@pytest.mark.parametrize("name", ["resnet20_b", "small_cnn_bn", "wide_resnet", "depthwise"])
def test_fused_training_equals_the_model(name):
    model, twin = _messy(MODELS[name]()), _messy(MODELS[name]())
    twin.set_weights(model.get_weights())
    images = tf.random.stateless_uniform([8, 16, 16, 3], [0, 1])
    fused = FusedTraining(twin)
    gradients = []
    for run, owner in ((lambda x: model(x, training=True), model), (fused, twin)):
        with tf.GradientTape() as tape:
            logits = run(images)
            loss = tf.reduce_mean(tf.nn.log_softmax(logits)[:, 0])
        gradients.append((logits, tape.gradient(loss, owner.trainable_variables)))
    scale = np.abs(gradients[0][0]).max()
    np.testing.assert_allclose(gradients[0][0], gradients[1][0], atol=2e-5 * scale)
    for ours, theirs in zip(gradients[0][1], gradients[1][1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4 * max(1.0, float(np.abs(theirs).max())))
    # The running variance moves by PyTorch's unbiased estimate: Keras' times n / (n - 1).
    first = next(layer for layer in model.layers if "bn" in layer.name)
    values = 8 * int(np.prod(first.output.shape[1:3]))
    old = _messy(MODELS[name]()).get_layer(first.name).moving_variance.numpy()
    keras_step = first.moving_variance.numpy() - 0.9 * old
    fused_step = twin.get_layer(first.name).moving_variance.numpy() - 0.9 * old
    np.testing.assert_allclose(fused_step, keras_step * values / (values - 1), rtol=1e-4, atol=1e-6)


def test_a_subclassed_model_is_called_as_it_is():
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        def call(self, x, training=None):
            return self.norm(x, training=training)

    model = Plain()
    images = tf.random.stateless_uniform([4, 2, 2, 1], [0, 1])
    np.testing.assert_allclose(FusedTraining(model)(images).numpy().mean(), 0, atol=1e-6)
    np.testing.assert_array_equal(FoldedInference(model)()(images), model(images, training=False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: resnet_cifar((32, 32, 3), 10, depth=21), "depth is 21; give 6n \\+ 2"),
        (lambda: resnet20((32, 32, 3), 10, shortcut="C"), "shortcut is 'C'; use 'A'"),
        (lambda: small_cnn((28, 28, 1), 10, widths=()), "widths is empty"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
