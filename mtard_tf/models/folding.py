"""Inference with BatchNorm folded into the convolutions: the same logits at a lower cost.

The inner attack runs the student in inference mode ten times and more per training step. There
BatchNorm is a fixed affine map per channel, which the convolution before it can absorb:

    BN(conv(x, K)) = conv(x, K * s) + (beta - mean * s),   s = gamma / sqrt(variance + epsilon)

A strided stem also gets a faster gradient to the images, see `cpu_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from mtard_tf.models import twins
from mtard_tf.models.compatibility import is_functional
from mtard_tf.models.cpu_kernels import StridedConv2D, has_fast_gradient
from mtard_tf.models.precision import with_precision

ModelFn = Callable[[tf.Tensor], tf.Tensor]


class FoldedInference(twins.Twinned):
    """Makes inference functions of a model from its current weights.

        fold = FoldedInference(model)        # once
        model_fn = fold()                    # once per step, inside the `tf.function`
        logits = model_fn(images)            # any number of times

    `fold()` reads the weights, so its result is valid until they change. A model is called directly
    (`training=False`) if it is not functional, has nothing to gain, cannot be rebuilt, or gives
    other logits than its twin (such as one that draws random numbers, see `twins.equal`).

    Args:
      model: a Keras model or a SavedModel, from images to logits. It is not changed.
      policy: dtype policy of the twin, which then is made also where nothing is folded; None for
        the model's own.
      attacked: whether gradients to the images are asked for, which then are made fast; False for
        a net of Keras' own layers alone.
    """

    def __init__(self, model: Any, policy: str | None = None, attacked: bool = True) -> None:
        self._model = model
        self._folded = _foldable(model)
        layers = model.layers if is_functional(model) else []
        self._strided = {x.name for x in layers if attacked and has_fast_gradient(x)}
        wanted = self._folded or self._strided or (policy and is_functional(model))
        super().__init__(model, self._rebuilt(policy) if wanted else None)

    def __call__(self) -> ModelFn:
        """The inference function for the current weights: `images -> logits`."""
        twin = self._proven_twin()
        return partial(self._model, training=False) if twin is None else self._answer(twin)

    def net(self) -> Any:
        """A net of its own with the current weights folded in; the model, where none is folded."""
        twin = self._proven_twin()
        if twin is None:
            return self._model
        for variable, value in zip(twin.non_trainable_variables, self._values(twin), strict=True):
            variable.assign(value)
        return twin

    def _rebuilt(self, policy: str | None) -> keras.Model | None:
        try:
            twin = keras.models.clone_model(self._model, clone_function=self._clone)
            twin = twin if policy is None else with_precision(twin, policy)
            twin.trainable = False
            self._values(twin)
        except Exception:  # a custom layer that its config does not rebuild
            return None
        return twin

    def _values(self, twin: keras.Model) -> list[tf.Tensor]:
        """Values for the twin's variables, from the model's current weights."""
        tensors: dict[int, tf.Tensor] = {}
        for layer in twin.layers:
            if not layer.variables:
                continue  # a cloned input layer may have another name
            source = self._model.get_layer(layer.name)
            if layer.name in self._folded:
                batch_norm = self._model.get_layer(self._folded[layer.name])
                tensors[id(layer.kernel)], tensors[id(layer.bias)] = _fold(source, batch_norm)
            else:
                for ours, theirs in zip(layer.variables, source.variables, strict=True):
                    tensors[id(ours)] = tf.convert_to_tensor(theirs.value)
        return [tensors[id(v)] for v in twin.non_trainable_variables]

    def _answer(self, twin: keras.Model) -> ModelFn:
        values = self._values(twin)

        def model_fn(images: tf.Tensor) -> tf.Tensor:
            logits, _ = twin.stateless_call([], values, images, training=False)
            return logits

        return model_fn

    def _clone(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = StridedConv2D if layer.name in self._strided else type(layer)
        if layer.name in self._folded:
            return kind.from_config(layer.get_config() | {"use_bias": True})
        if layer.name in self._folded.values():
            # Of another precision it would convert what passes, there and back.
            return _PassThrough(name=layer.name, dtype=layer.dtype_policy.name)
        return kind.from_config(layer.get_config())


class _PassThrough(keras.layers.Layer):
    """Replaces a folded BatchNorm, and accepts the arguments that it was called with."""

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        return inputs


def _foldable(model: Any) -> dict[str, str]:
    """Name of a convolution -> name of the BatchNorm that is its only consumer.

    A BatchNorm that follows another layer, as the first of a pre-activation block, is not folded.
    """
    operations = model.operations if is_functional(model) else []
    pairs: dict[str, str] = {}
    consumed = consumers(model) if operations else {}
    for operation in operations:
        following = consumed.get(operation.name, [])
        if (
            type(operation) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
            and operation.activation is keras.activations.linear
            and len(operation._inbound_nodes) == 1
            and len(following) == 1
            and type(following[0]) is keras.layers.BatchNormalization
            and len(following[0]._inbound_nodes) == 1
            and following[0].axis in (-1, 3)
        ):
            pairs[operation.name] = following[0].name
    return pairs


def consumers(model: keras.Model) -> dict[str, list[keras.Operation]]:
    """Name of an operation of a functional model -> those that take its output, once a use."""
    found: dict[str, list[keras.Operation]] = {}
    for operation in model.operations:
        for node in operation._inbound_nodes:
            for tensor in node.input_tensors:
                found.setdefault(tensor._keras_history.operation.name, []).append(operation)
    return found


def _fold(
    conv: keras.layers.Conv2D | keras.layers.DepthwiseConv2D,
    batch_norm: keras.layers.BatchNormalization,
) -> tuple[tf.Tensor, tf.Tensor]:
    value = tf.convert_to_tensor
    scale = tf.math.rsqrt(value(batch_norm.moving_variance) + batch_norm.epsilon)
    if batch_norm.scale:
        scale *= value(batch_norm.gamma)
    shift = -value(batch_norm.moving_mean)
    if conv.use_bias:
        shift += value(conv.bias)
    shift *= scale
    if batch_norm.center:
        shift += value(batch_norm.beta)
    if isinstance(conv, keras.layers.DepthwiseConv2D):
        # Its kernel is [height, width, channels, multiplier], and its outputs are in that order.
        return value(conv.kernel) * tf.reshape(scale, (-1, conv.depth_multiplier)), shift
    return value(conv.kernel) * scale, shift
