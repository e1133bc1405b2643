"""LiteRT's operations, with gradients: of numbers on the scales of a file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from mtard_tf.models.model_files import ModelFileError
from mtard_tf.runtimes.node import ACTIVATIONS, Node, rounded, scales, zero_of

_PADDING = {schema.Padding.SAME: "SAME", schema.Padding.VALID: "VALID"}


def _biased(node: Node, sums: tf.Tensor) -> tf.Tensor:
    """The sums of a linear operation with bias, rescaled channel by channel."""
    scale = np.float32(node.scale(0)) * scales(node.tensor(1))
    if node.given(2):
        bias, tensor = node.constant(2), node.tensor(2)
        if node.tensor(0).quantised:  # int32 on the scale of the sums
            sums += tf.constant(bias.astype(np.float32))
        else:
            sums += tf.constant((bias * scales(tensor) / scale).astype(np.float32))
    return node.finish(sums, scale)


def _convolution(node: Node) -> tf.Tensor:
    kernel = node.kernel(1).transpose(1, 2, 3, 0)
    strides, padding, dilations = _window(node.options)
    return _biased(
        node, tf.nn.conv2d(node.centred(0), kernel, strides, padding, dilations=dilations)
    )


def _depthwise(node: Node) -> tf.Tensor:
    kernel, inputs = node.kernel(1)[0], node.centred(0)
    kernel = kernel.reshape(*kernel.shape[:2], inputs.shape[-1], -1)
    strides, padding, dilations = _window(node.options)
    four = [1, *strides, 1]
    sums = tf.nn.depthwise_conv2d(inputs, kernel, four, padding, dilations=dilations)
    return _biased(node, sums)


def _window(options: Any) -> tuple[list[int], str, list[int]]:
    strides = [options.strideH, options.strideW]
    return strides, _PADDING[options.padding], [options.dilationHFactor, options.dilationWFactor]


def _dense(node: Node) -> tf.Tensor:
    kernel = node.kernel(1)
    return _biased(node, tf.reshape(node.centred(0), [-1, kernel.shape[1]]) @ kernel.T)


def _pool(node: Node, kind: str) -> tf.Tensor:
    options = node.options
    window, strides = (
        [options.filterHeight, options.filterWidth],
        [options.strideH, options.strideW],
    )
    padding = _PADDING[options.padding]
    values = tf.nn.pool(node.centred(0), window, kind, strides=strides, padding=padding)
    if kind == "AVG" and node.output.quantised:  # of one scale; a half goes away from 0
        values += zero_of(node.tensor(0))
        return rounded(values, 0.0, *node.output.limits, nearest=_half_away)
    return node.finish(values, node.scale(0))


def _half_away(values: tf.Tensor) -> tf.Tensor:
    return tf.sign(values) * tf.floor(tf.abs(values) + 0.5)


def _mean(node: Node) -> tf.Tensor:
    axes = [int(axis) for axis in np.ravel(node.constant(1))]
    values = tf.reduce_mean(node.centred(0), axes, keepdims=bool(node.options.keepDims))
    return node.finish(values, node.scale(0))


def _of_reals(compute: Callable[..., tf.Tensor], activation: int | None, node: Node) -> tf.Tensor:
    """An operation on real numbers, of one or two inputs."""
    values = compute(*(node.real(place) for place in range(node.count)))
    return node.finish(values, 1.0, activation)


def _of_one(compute: Callable[[Node, tf.Tensor], tf.Tensor], node: Node) -> tf.Tensor:
    """An operation that moves numbers or changes their scale alone."""
    return node.finish(compute(node, node.centred(0)), node.scale(0))


def _padded(node: Node, values: tf.Tensor) -> tf.Tensor:
    return tf.pad(values, [[int(n) for n in pair] for pair in node.constant(1)])


def _reshaped(node: Node, values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1, *_sides(node.output.shape[1:])])


def _sides(shape: Sequence[int | None]) -> list[int]:
    if None in shape:
        raise ModelFileError("a RESHAPE's size is not stated")
    return [int(side) for side in shape if side is not None]


def _joined(node: Node) -> tf.Tensor:
    parts = [node.real(place) for place in range(node.count)]
    return node.finish(tf.concat(parts, node.options.axis), 1.0)


def _dequantised(node: Node) -> tf.Tensor:
    if node.tensor(0).value is not None:
        value = node.kernel(0) * node.scale(0)
        return tf.constant(value)
    return node.finish(node.centred(0), node.scale(0))


OPERATIONS: dict[str, Callable[[Node], tf.Tensor]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "AVERAGE_POOL_2D": lambda node: _pool(node, "AVG"),
    "MAX_POOL_2D": lambda node: _pool(node, "MAX"),
    "MEAN": _mean,
    "ADD": functools.partial(_of_reals, tf.add, None),
    "SUB": functools.partial(_of_reals, tf.subtract, None),
    "MUL": functools.partial(_of_reals, tf.multiply, None),
    "RELU": functools.partial(_of_reals, tf.identity, ACTIVATIONS.RELU),
    "RELU6": functools.partial(_of_reals, tf.identity, ACTIVATIONS.RELU6),
    "LOGISTIC": functools.partial(_of_reals, tf.sigmoid, None),
    "TANH": functools.partial(_of_reals, tf.tanh, None),
    "SOFTMAX": functools.partial(_of_reals, tf.nn.softmax, None),
    "CONCATENATION": _joined,
    "PAD": functools.partial(_of_one, _padded),
    "RESHAPE": functools.partial(_of_one, _reshaped),
    "QUANTIZE": functools.partial(_of_one, lambda _, values: values),
    "DEQUANTIZE": _dequantised,
}
