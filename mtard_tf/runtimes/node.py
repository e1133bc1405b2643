"""One operation of a LiteRT file with the values that reach it, as float32 of integer value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from mtard_tf.runtimes.flatbuffer import File, Operation, Tensor

ACTIVATIONS = schema.ActivationFunctionType
# Real intervals that activations hold their values in.
_HELD = {
    ACTIVATIONS.NONE: (None, None),
    ACTIVATIONS.RELU: (0.0, None),
    ACTIVATIONS.RELU6: (0.0, 6.0),
    ACTIVATIONS.RELU_N1_TO_1: (-1.0, 1.0),
}


def rounded(
    values: tf.Tensor,
    zero: float,
    low: float,
    high: float,
    nearest: Callable[[tf.Tensor], tf.Tensor] = tf.round,
) -> tf.Tensor:
    """The nearest integers, plus `zero`, within [low, high]; the gradient is that of `values`.

    Rounded before `zero` is added, as the interpreter does: a half goes to the even integer.
    """

    @tf.custom_gradient
    def apply(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        return tf.clip_by_value(nearest(x) + zero, low, high), lambda upstream: upstream

    return apply(values)


def scales(tensor: Tensor) -> np.ndarray:
    return tensor.scale if tensor.quantised else np.ones(1, np.float32)


def zero_of(tensor: Tensor) -> float:
    return float(tensor.zero_point[0]) if tensor.quantised else 0.0


def held(real: tf.Tensor, tensor: Tensor) -> tf.Tensor:
    """Real numbers as the tensor holds them."""
    if not tensor.quantised:
        return real
    return rounded(real / float(tensor.scale[0]), zero_of(tensor), *tensor.limits)


def real(held: tf.Tensor, tensor: Tensor) -> tf.Tensor:
    return (held - zero_of(tensor)) * float(scales(tensor)[0])


class Node:
    """An operation with the values that reach it."""

    def __init__(self, file: File, operation: Operation, values: dict[int, tf.Tensor]) -> None:
        self._file, self._values = file, values
        self._inputs, self.options = operation.inputs, operation.options
        self.output = file.tensors[operation.output]

    @property
    def count(self) -> int:
        return len(self._inputs)

    def given(self, place: int) -> bool:
        """Whether there is an input at this place."""
        return self.count > place and self._inputs[place] >= 0

    def tensor(self, place: int) -> Tensor:
        """The tensor at an input."""
        return self._file.tensors[self._inputs[place]]

    def constant(self, place: int) -> np.ndarray:
        """The value of an input that is a constant."""
        value = self.tensor(place).value
        if value is None:
            found = self._values[self._inputs[place]]  # float16 weights, made float32
            value = found.numpy() if hasattr(found, "numpy") else tf.get_static_value(found)
        return value

    def centred(self, place: int) -> tf.Tensor:
        """An input as integers without their zero point, or as real numbers."""
        index = self._inputs[place]
        if index in self._values:
            return self._values[index] - zero_of(self.tensor(place))
        value = self.tensor(place).value.astype(np.float32)  # type: ignore[union-attr]
        return tf.constant(value - zero_of(self.tensor(place)))

    def scale(self, place: int) -> float:
        return float(scales(self.tensor(place))[0])

    def real(self, place: int) -> tf.Tensor:
        return self.centred(place) * self.scale(place)

    def kernel(self, place: int) -> np.ndarray:
        """A constant as float32 integers without their zero points, or as real numbers."""
        tensor, value = self.tensor(place), self.constant(place).astype(np.float32)
        if not tensor.quantised:
            return value
        along = [1] * value.ndim
        along[tensor.axis] = -1
        return value - tensor.zero_point.reshape(along).astype(np.float32)

    def finish(self, values: tf.Tensor, scale: Any, activation: int | None = None) -> tf.Tensor:
        """`values * scale` are the real numbers of the output: the activation, then rounding."""
        own = scales(self.output)[0]
        # In the precision of the interpreter: halves are frequent, and it decides on them.
        ratio = tf.constant(np.asarray(scale, np.float32) / own)
        # A placeholder, or the graph's optimiser moves it into the convolution before, in another
        # rounding: 4 of 10 logits of a MobileNetV2 then differ from the interpreter's.
        reals = values * tf.compat.v1.placeholder_with_default(ratio, ratio.shape)
        fused = getattr(self.options, "fusedActivationFunction", ACTIVATIONS.NONE)
        low, high = _HELD[fused if activation is None else activation]
        reals = reals if low is None else tf.maximum(reals, low / own)
        reals = reals if high is None else tf.minimum(reals, high / own)
        if not self.output.quantised:
            return reals
        return rounded(reals, zero_of(self.output), *self.output.limits)
