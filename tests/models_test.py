"""Parameter counts, and the two fast forms of a model against the model itself."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.models.resnet_cifar import (
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
    ],
)
def test_parameter_counts_of_the_papers(model, classes, parameters):
    assert trained_parameters(model((32, 32, 3), classes)) == parameters


def test_option_a_has_no_shortcut_parameters():
    assert trained_parameters(resnet56((32, 32, 3), 10, shortcut="A")) == 853_018


@pytest.mark.parametrize("size", [28, 32, 64])
def test_sizes_and_depths(size):
    for model in (resnet20, resnet32, resnet44):
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


def _models():
    normalization = ((0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
    return {
        "resnet20_b": resnet20((16, 16, 3), 10, width=8),
        "resnet20_a": resnet20((16, 16, 3), 10, width=8, shortcut="A", normalization=normalization),
        "small_cnn_bn": small_cnn((16, 16, 3), 10, batch_normalization=True),
        "small_cnn": small_cnn((16, 16, 3), 10, dense=0),
    }


@pytest.mark.parametrize("name", ["resnet20_b", "resnet20_a", "small_cnn_bn", "small_cnn"])
def test_folded_inference_equals_the_model(name):
    model = _messy(_models()[name])
    images = tf.random.stateless_uniform([4, 16, 16, 3], [0, 1])
    fold = FoldedInference(model)
    expected = model(images, training=False).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(fold()(images), expected, atol=2e-6 * scale, rtol=1e-4)
    before = [v.numpy() for v in model.variables]
    model.trainable_variables[0].assign(model.trainable_variables[0] * 1.5)
    changed = model(images, training=False).numpy()
    assert np.abs(changed - expected).max() > 1e-3 * scale
    np.testing.assert_allclose(fold()(images), changed, atol=3e-6 * scale, rtol=1e-4)
    assert len(before) == len(model.variables)


@pytest.mark.parametrize("name", ["resnet20_b", "small_cnn_bn"])
def test_fused_training_equals_the_model(name):
    model, twin = _messy(_models()[name]), _messy(_models()[name])
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
    old = _messy(_models()[name]).get_layer(first.name).moving_variance.numpy()
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
