"""Training passes with TensorFlow's fused BatchNorm, where Keras' layer runs a dozen small ops.

The student keeps Keras' layers, so that its file loads anywhere; a twin (a rebuilt copy) with its
variables and fused BatchNorm runs the training passes. The running variance is the unbiased one, as
in PyTorch and so in the papers; Keras' layer keeps the biased one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mtard_tf.models import twins
from mtard_tf.models.compatibility import is_functional
from mtard_tf.models.cpu_kernels import batch_norm_dtype
from mtard_tf.models.precision import with_precision


class FusedTraining(twins.Twinned):
    """Runs a model in training mode: `logits = fused(images)`.

    Gradients reach the model's own trainable variables, and its BatchNorm statistics and dropout
    seeds are updated. A model is called directly if it is not functional, has no BatchNorm, cannot
    be rebuilt, or gives other logits than its twin (see `twins.equal`).

    Args:
      model: a Keras model from images to logits.
      policy: dtype policy of the twin, which then is made also where nothing is fused; None for
        the model's own.
    """

    training = True

    def __init__(self, model: keras.Model, policy: str | None = None) -> None:
        super().__init__(model, self._rebuilt(model, policy) if is_functional(model) else None)

    def _rebuilt(self, model: keras.Model, policy: str | None) -> keras.Model | None:
        return fused(model, policy)

    def __call__(self, images: tf.Tensor, weights: Sequence[tf.Tensor] | None = None) -> tf.Tensor:
        """Training-mode logits, `[batch, classes]`.

        Args:
          images: float32.
          weights: values to use in place of the model's trainable variables, in their order.
        """
        twin = self._proven_twin()
        if twin is None and weights is None:
            return self._model(images, training=True)
        own, state = self._values()
        logits, moved = (twin or self._model).stateless_call(
            own if weights is None else weights, state, images, training=True
        )
        for variable, value in zip(self._model.non_trainable_variables, moved, strict=True):
            variable.assign(value)
        return logits

    def _values(self) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The current values of the model's trainable and other variables."""
        model = self._model
        both = (model.trainable_variables, model.non_trainable_variables)
        weights, state = ([tf.convert_to_tensor(v.value) for v in part] for part in both)
        return weights, state

    def _answer(self, twin: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
        weights, state = self._values()
        return lambda images: twin.stateless_call(weights, state, images, training=True)[0]


def fused(
    model: keras.Model,
    policy: str | None = None,
    call_function: Callable[..., Any] | None = None,
    always: bool = False,
) -> keras.Model | None:
    """A copy with fused BatchNorm; None where there is none to fuse, or it cannot be rebuilt.

    Args:
      model: functional.
      policy: dtype policy of the copy, which then is made also where nothing is fused.
      call_function: calls each operation of the copy, as `keras.models.clone_model` has it.
      always: make it also where nothing is fused.
    """
    try:
        if not (policy or always or any(_fusible(layer) for layer in model.layers)):
            return None
        further = {} if call_function is None else {"call_function": call_function}
        twin = keras.models.clone_model(model, clone_function=_clone, **further)
        twin = twin if policy is None else with_precision(twin, policy)
    except Exception:  # a custom layer that its config does not rebuild
        return None
    own, copies = model.variables, twin.variables
    return twin if [v.shape for v in own] == [v.shape for v in copies] else None


class _FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer with one fused op in training mode."""

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        if not training:
            return super().call(inputs, training=False, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(inputs, batch_norm_dtype(inputs.dtype, inputs.shape[-1])),
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.convert_to_tensor(self.moving_mean),
            variance=tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            exponential_avg_factor=1.0 - self.momentum,
            is_training=True,
        )
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        return tf.cast(outputs, inputs.dtype)


def _fusible(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.axis in (-1, 3)
        and len(layer.input.shape) == 4
        and layer.center
        and layer.scale
        and layer.trainable
        and not layer.synchronized
    )


def _clone(layer: keras.layers.Layer) -> keras.layers.Layer:
    cls = _FusedBatchNormalization if _fusible(layer) else type(layer)
    return cls.from_config(layer.get_config())
