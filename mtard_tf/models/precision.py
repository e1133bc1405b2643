"""The same net computing in another precision, or with statistics over all replicas."""

from __future__ import annotations

from typing import Any

import keras

from mtard_tf.models.layers import batch_norms
from mtard_tf.models.plain import is_plain

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def with_precision(model: Any, policy: str) -> Any:
    """The model itself where its layers have this policy, else a copy that has, same weights.

    Args:
      model: functional or Sequential; any other computes as it was made to.
      policy: one of `POLICIES`.
    """
    if not is_plain(model) and not isinstance(model, keras.Sequential):
        return model
    if all(layer.dtype_policy.name == policy for layer in model.layers):
        return model

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config(layer.get_config() | {"dtype": policy})

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def synchronize_batch_norm(model: Any) -> None:
    """Lets the model's BatchNorm take its statistics over all replicas."""
    for layer in batch_norms(model):
        layer.synchronized = True


def is_synchronized(model: Any) -> bool:
    """Whether any BatchNorm of the model takes its statistics over all replicas."""
    return any(layer.synchronized for layer in batch_norms(model))
