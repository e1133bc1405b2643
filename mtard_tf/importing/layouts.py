"""Weights of each kind of layer in PyTorch's layout: their shapes, and how to convert them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from mtard_tf.importing.tensors import WeightsFileError

_L = keras.layers
# Layers between Flatten and Dense that keep the order of features.
_KEEP_ORDER = (_L.Activation, _L.Dropout, _L.LeakyReLU, _L.ReLU)


@dataclasses.dataclass(frozen=True)
class Weight:
    """One variable of a Keras layer, and its counterpart in PyTorch.

    Attributes:
      kind: PyTorch's name: "weight", "bias", "running_mean", "running_var".
      variable: of the Keras layer.
      shape: in PyTorch's layout.
      convert: an array in PyTorch's layout -> in Keras'.
    """

    kind: str
    variable: keras.Variable
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray]


def weights(layer: keras.layers.Layer) -> list[Weight]:
    """The weights of a layer; empty for a layer without weights.

    Raises:
      WeightsFileError: a layer with weights that is not supported.
    """
    if isinstance(layer, _L.BatchNormalization):
        return _batch_norm(layer)
    if isinstance(layer, _L.DepthwiseConv2D):
        return [_depthwise(layer), *_bias(layer)]
    if isinstance(layer, _L.Conv2D) and not isinstance(layer, _L.Conv2DTranspose):
        height, width, inputs, outputs = layer.kernel.shape
        shape = (outputs, inputs, height, width)
        return [
            Weight("weight", layer.kernel, shape, lambda k: k.transpose(2, 3, 1, 0)),
            *_bias(layer),
        ]
    if isinstance(layer, _L.Dense):
        return [_dense(layer), *_bias(layer)]
    if layer.weights and not isinstance(layer, _L.Normalization):
        raise WeightsFileError(
            f"The layer {layer.name} is a {type(layer).__name__}; weights are imported for Conv2D, "
            "DepthwiseConv2D, Dense and BatchNormalization."
        )
    return []


def kind(layer: keras.layers.Layer) -> str:
    """Short class name of a layer, for tables."""
    return type(layer).__name__.replace("BatchNormalization", "BatchNorm")


def _bias(layer: keras.layers.Layer) -> list[Weight]:
    return [_vector("bias", layer.bias)] if layer.use_bias else []


def _vector(kind: str, variable: keras.Variable) -> Weight:
    return Weight(kind, variable, tuple(variable.shape), lambda values: values)


def _batch_norm(layer: keras.layers.BatchNormalization) -> list[Weight]:
    named = {
        "weight": layer.gamma,
        "bias": layer.beta,
        "running_mean": layer.moving_mean,
        "running_var": layer.moving_variance,
    }
    return [_vector(kind, variable) for kind, variable in named.items() if variable is not None]


def _depthwise(layer: keras.layers.DepthwiseConv2D) -> Weight:
    height, width, channels, multiplier = layer.kernel.shape

    def convert(kernel: np.ndarray) -> np.ndarray:
        split = kernel.reshape(channels, multiplier, height, width)
        return split.transpose(2, 3, 0, 1)

    return Weight("weight", layer.kernel, (channels * multiplier, 1, height, width), convert)


def _dense(layer: keras.layers.Dense) -> Weight:
    inputs, outputs = layer.kernel.shape
    flattened = _flattened(layer)

    def convert(kernel: np.ndarray) -> np.ndarray:
        if flattened is not None:
            # PyTorch flattens [channels, height, width], Keras [height, width, channels].
            height, width, channels = flattened
            kernel = kernel.reshape(outputs, channels, height, width).transpose(0, 2, 3, 1)
        return kernel.reshape(outputs, inputs).T

    return Weight("weight", layer.kernel, (outputs, inputs), convert)


def _flattened(layer: keras.layers.Dense) -> tuple[int, int, int] | None:
    """The shape `[height, width, channels]` of the Flatten that feeds a dense layer, or None."""
    operation = layer
    while True:
        operation = operation.input._keras_history.operation
        if isinstance(operation, _L.Flatten):
            shape = operation.input.shape[1:]
            return tuple(shape) if len(shape) == 3 else None
        if not isinstance(operation, _KEEP_ORDER):
            return None
