"""A net that computes as its int8 file will: rounded in the forward pass, not in the gradient.

What LiteRT's full-integer files round is rounded here: images to levels of 1/255; kernels to -127
to 127 steps, one size for each output channel (rounding commutes with the scale of a BatchNorm that
is folded later); and activations to 256 steps between bounds, where a convolution, its BatchNorm
and its ReLU are one operation and so rounded once. Biases have 32 bits and logits keep theirs.
The bounds are moving averages of what training passes show. Gradients go straight through the
rounding and are 0 outside of the bounds (Jacob et al., CVPR 2018, arXiv 1712.05877).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mtard_tf.distribute.replicas import replica_bounds, replicated_state
from mtard_tf.models.compatibility import is_functional
from mtard_tf.models.folding import consumers
from mtard_tf.models.fused import FusedTraining, fused

_DECAY = 0.9  # of the bounds, by training pass
_BITS = 8
_WITH_KERNELS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
# They move values and make none.
_MOVES = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.InputLayer,
    keras.layers.MaxPooling2D,
    keras.layers.Reshape,
    keras.layers.ZeroPadding2D,
)


def rounded_kernel(kernel: tf.Tensor, depthwise: bool = False) -> tf.Tensor:
    """A kernel in 254 steps between minus and plus the largest weight of each output channel.

    Args:
      kernel: float32, output channels last; of a depthwise convolution
        `[height, width, channels, multiplier]`.
      depthwise: whether it is that of one.
    """
    flat = tf.reshape(kernel, (*kernel.shape[:2], -1)) if depthwise else kernel
    axes = list(range(flat.shape.rank - 1))
    # A channel of zeros has some step, too.
    largest = tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(flat), axis=axes), 1e-8))
    rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        flat, -largest, largest, num_bits=_BITS, narrow_range=True
    )
    return tf.reshape(rounded, kernel.shape)


def rounded(values: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
    """Values in 256 steps between two bounds, of which 0 is one; as they are where both are 0.

    Args:
      values: float32.
      bounds: the lower, at most 0, and the upper, at least 0; `[2]`.
    """
    known = bounds[1] > bounds[0]
    high = tf.stop_gradient(tf.where(known, bounds[1], 1.0))
    low = tf.stop_gradient(bounds[0])
    steps = tf.quantization.fake_quant_with_min_max_vars(values, low, high, num_bits=_BITS)
    return tf.where(known, steps, values)


class FakeQuantised(FusedTraining):
    """Runs a student in training mode as `FusedTraining` does, rounded.

    `inference` is the same student in inference mode, for an attack.

    Args:
      model: functional, from images in [0, 1] to logits, float32.
      owner: a distiller, that keeps the bounds with its checkpoints.

    Raises:
      ValueError: the model is not functional or cannot be rebuilt.
    """

    def __init__(self, model: keras.Model, owner: keras.Model) -> None:
        if not is_functional(model):
            raise self._refusal(model)
        self._points = _points(model)
        self._bounds: tf.Tensor | None = None
        self._seen: dict[int, tf.Tensor] | None = None
        super().__init__(model)
        if self._twin is None:
            raise self._refusal(model)
        self._kernels = _kernels(self._twin)
        self.bounds = replicated_state(owner, "quantization_bounds", (len(self._points), 2))

    def _rebuilt(self, model: keras.Model, policy: str | None) -> keras.Model | None:
        return fused(model, call_function=self._call, always=True)

    @staticmethod
    def _refusal(model: Any) -> ValueError:
        return ValueError(
            f"Stage.quantization rebuilds the student, and {model.name} cannot be: give a "
            "functional Keras model whose layers their config rebuilds, or leave it out."
        )

    def prove(self, images: tf.Tensor) -> None:
        """Compares the twin, before anything is rounded, with the student.

        Raises:
          ValueError: it gives other logits.
        """
        super().prove(images)
        if self._twin is None:
            raise self._refusal(self._model)

    def __call__(self, images: tf.Tensor, weights: Sequence[tf.Tensor] | None = None) -> tf.Tensor:
        """Training-mode logits, see `FusedTraining`; the bounds follow what is seen."""
        twin = self._checked()
        own, state = self._values()
        observed: dict[int, tf.Tensor] = {}
        self._bounds, self._seen = tf.convert_to_tensor(self.bounds.value), observed
        try:
            given = self._kernels_of(own if weights is None else list(weights))
            logits, moved = twin.stateless_call(given, state, _levels(images), training=True)
            seen = tf.stack([observed[i] for i in range(len(self._points))])
        finally:
            self._bounds = self._seen = None
        for variable, value in zip(self._model.non_trainable_variables, moved, strict=True):
            variable.assign(value)
        before = tf.convert_to_tensor(self.bounds.value)
        unset = tf.reduce_all(before == 0.0, axis=1, keepdims=True)
        self.bounds.assign(tf.where(unset, seen, _DECAY * before + (1 - _DECAY) * seen))
        return logits

    def inference(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Images -> logits in inference mode, with the weights and bounds of now."""
        twin = self._checked()
        own, state = self._values()
        given, bounds = self._kernels_of(own), tf.convert_to_tensor(self.bounds.value)

        def model_fn(images: tf.Tensor) -> tf.Tensor:
            self._bounds = bounds
            try:
                return twin.stateless_call(given, state, _levels(images), training=False)[0]
            finally:
                self._bounds = None

        return model_fn

    def _checked(self) -> keras.Model:
        twin = self._proven_twin()
        if twin is None:
            raise self._refusal(self._model)
        return twin

    def _kernels_of(self, weights: list[tf.Tensor]) -> list[tf.Tensor]:
        return [
            rounded_kernel(weight, self._kernels[i]) if i in self._kernels else weight
            for i, weight in enumerate(weights)
        ]

    def _call(self, part: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        """Calls a rebuilt operation, and rounds what it returns where a file does."""
        outputs = part(*args, **kwargs)
        if part.name not in self._points:
            return outputs
        return _Rounding(self._rounded, self._points.index(part.name))(outputs)

    def _rounded(self, values: tf.Tensor, point: int) -> tf.Tensor:
        if self._bounds is None:  # while the twin is built or proven
            return values
        if self._seen is not None:
            low, high = replica_bounds(tf.stop_gradient(tf.reshape(values, [-1])))
            self._seen[point] = tf.stack([tf.minimum(low, 0.0), tf.maximum(high, 0.0)])
        return rounded(values, self._bounds[point])


class _Rounding(keras.layers.Layer):
    """Rounds one activation; its bounds are not its own, but those of the pass."""

    def __init__(self, round_: Callable[[tf.Tensor, int], tf.Tensor], point: int) -> None:
        super().__init__(name=f"rounding_{point}")
        self._round, self._point = round_, point

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self._round(inputs, self._point)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


def _levels(images: tf.Tensor) -> tf.Tensor:
    """Images as a file is given them: whole levels of 255 in [0, 1]."""
    return tf.quantization.fake_quant_with_min_max_args(images, 0.0, 1.0, num_bits=_BITS)


def _points(model: keras.Model) -> list[str]:
    """Names of the operations whose outputs a full-integer file rounds; not the logits'."""
    following = consumers(model)
    last = {tensor._keras_history.operation.name for tensor in model.outputs}
    names = []
    for operation in model.operations:
        after = following.get(operation.name, [])
        fuses = len(after) == 1 and _is_fused(after[0])
        if not (isinstance(operation, _MOVES) or operation.name in last or fuses):
            names.append(operation.name)
    return names


def _is_fused(operation: keras.Operation) -> bool:
    """Whether it becomes part of the operation before it in a file."""
    if isinstance(operation, keras.layers.BatchNormalization | keras.layers.ReLU):
        return True
    return isinstance(operation, keras.layers.Activation) and operation.activation in (
        keras.activations.relu,
        keras.activations.relu6,
    )


def _kernels(twin: keras.Model) -> dict[int, bool]:
    """Places of kernels among the trainable variables -> whether the layer is depthwise."""
    places = {id(variable): i for i, variable in enumerate(twin.trainable_variables)}
    return {
        places[id(layer.kernel)]: isinstance(layer, keras.layers.DepthwiseConv2D)
        for layer in twin.layers
        if isinstance(layer, _WITH_KERNELS) and id(layer.kernel) in places
    }
