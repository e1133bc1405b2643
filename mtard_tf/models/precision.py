"""The same net computing in another precision; its variables are float32 in each."""

from __future__ import annotations

import keras

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def with_precision(model: keras.Model, policy: str) -> keras.Model:
    """The model itself where its layers have this policy, else a copy that has, same weights.

    Args:
      model: functional or Sequential.
      policy: one of `POLICIES`.
    """
    if all(layer.dtype_policy.name == policy for layer in model.layers):
        return model

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config(layer.get_config() | {"dtype": policy})

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy
