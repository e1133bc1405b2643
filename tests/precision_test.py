"""Nets with plain operations and nets within nets compute in another precision, and come back."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.precision import with_precision

_L = keras.layers
SHAPE = (6, 6, 3)


def _residual() -> keras.Model:
    """BatchNorm to fold, `x + shortcut`, and operations between layers."""
    inputs = keras.Input(SHAPE)
    shortcut = _L.BatchNormalization()(_L.Conv2D(3, 3, padding="same")((inputs - 0.5) / 0.25))
    x = _L.Conv2D(3, 3, padding="same", use_bias=False)(shortcut)
    x = keras.ops.relu(_L.BatchNormalization()(x) + shortcut)
    return keras.Model(inputs, _L.Dense(2)(keras.ops.mean(x, axis=(1, 2))))


def _constants() -> keras.Model:
    """Operations with arrays in float32, of which a convolution takes no two precisions."""
    inputs = keras.Input(SHAPE)
    x = _L.Conv2D(3, 3, padding="same")(inputs)
    x = keras.ops.conv(x, np.full((3, 3, 3, 3), 0.1, np.float32), padding="same")
    x = keras.ops.minimum(keras.ops.matmul(x, np.eye(3, dtype=np.float32)), inputs)
    x = keras.ops.stack([x, inputs], axis=1)
    return keras.Model(inputs, _L.Dense(2)(keras.ops.max(x, axis=(1, 2, 3))))


def _cast() -> keras.Model:
    """`keras.ops.cast` has a dtype of its own; the logits are a plain operation's."""
    inputs = keras.Input(SHAPE)
    x = keras.ops.cast(inputs > 0.5, "float32")
    return keras.Model(inputs, 2.0 * _L.Dense(2)(_L.Flatten()(x)) + 1.0)


def _nested() -> keras.Model:
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, _residual()(inputs) + 1.0)


def _sequential() -> keras.Model:
    return keras.Sequential([keras.Input(SHAPE), _residual(), _L.Dense(2)])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("make", [_residual, _constants, _cast, _nested, _sequential])
def test_plain_operations_run_in_every_precision(make, policy: str, tmp_path) -> None:
    model = make()
    images = np.random.RandomState(0).uniform(size=(4, *SHAPE)).astype(np.float32)
    wanted = np.asarray(model(images))
    mixed = with_precision(model, policy)
    tolerance = 0.05 if policy == "mixed_bfloat16" else 0.01
    for logits in (mixed(images), FoldedInference(mixed)()(images)):
        np.testing.assert_allclose(np.asarray(logits, np.float32), wanted, atol=tolerance)
    inner = [p for p in mixed._flatten_layers() if isinstance(p, _L.Dense | _L.Conv2D)]
    assert {layer.dtype_policy.name for layer in inner} == {policy}
    assert with_precision(mixed, policy) is mixed

    mixed.save(tmp_path / "mixed.keras")
    loaded = keras.models.load_model(tmp_path / "mixed.keras")
    back = with_precision(loaded, "float32")
    np.testing.assert_array_equal(np.asarray(back(images)), wanted)
    assert with_precision(model, "float32") is model
