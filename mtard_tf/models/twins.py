"""Whether a twin, a rebuilt copy of a model, gives the same logits and so may run in its place.

A custom layer may be rebuilt differently (an argument that its config lacks) or not at all, and a
model that draws random numbers would draw them once for many calls of a twin with fixed values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Images that model and twin are compared on: of the data, or random ones.
PROBED, _RANDOM = 16, 2
# Largest difference due to rounding, relative to the largest logit, by the precision of a layer.
_ROUNDING = {"float16": 0.1, "bfloat16": 0.3}
_FLOAT32 = 1e-3
# On some devices two calls of one net differ by rounding.
_REPEATABLE = 1e-5
# Side of random images for a model that takes any size.
_OPEN_SIDE = 32


def equal(
    model: keras.Model,
    twin: Callable[[tf.Tensor], tf.Tensor],
    images: tf.Tensor,
    training: bool,
    tolerance: float,
) -> bool:
    """Whether `twin` gives the model's logits, and both give the same logits each time.

    The model is not changed. In inference mode its state must not change either: a net that updates
    it, or draws random numbers, differs from call to call. In training mode the same state must
    give the same logits.

    Args:
      model: functional.
      twin: images -> logits; any exception counts as a difference.
      images: float32; the first `PROBED` are used.
      training: whether to compare in training mode.
      tolerance: largest difference, relative to the largest logit.
    """
    images = tf.convert_to_tensor(images[:PROBED])
    trainable = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    state = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]

    def asked() -> tuple[np.ndarray, list[tf.Tensor]]:
        logits, moved = model.stateless_call(trainable, state, images, training=training)
        return _numbers(logits), moved

    try:
        (first, moved), (second, _) = asked(), asked()
        ours, again = _numbers(twin(images)), _numbers(twin(images))
    except Exception:  # raised by a custom layer
        return False
    if not training and any(not np.array_equal(a, b) for a, b in zip(moved, state, strict=True)):
        return False
    scale = float(np.abs(first).max())
    with np.errstate(invalid="ignore"):  # infinite logits agree with nothing
        apart = max(np.abs(first - second).max(), np.abs(ours - again).max())
        return bool(
            apart <= _REPEATABLE * scale and np.abs(first - ours).max() <= tolerance * scale
        )


class Twinned:
    """A model with a twin that runs in its place, if it gives the same logits.

    Args:
      model: from images to logits.
      twin: a rebuilt copy of it, or None.
    """

    training = False

    def __init__(self, model: Any, twin: keras.Model | None) -> None:
        self._model = model
        self._twin = twin
        self._compared = False

    def prove(self, images: tf.Tensor) -> None:
        """Compares twin and model on these images, once; if never called, on random images."""
        if self._twin is not None and not self._compared:
            tolerance = max(_tolerance(self._model), _tolerance(self._twin))
            if not equal(self._model, self._answer(self._twin), images, self.training, tolerance):
                self._twin = None
            self._compared = True

    @property
    def proven(self) -> bool:
        """Whether the twin runs in the model's place."""
        return self._proven_twin() is not None

    def _proven_twin(self) -> keras.Model | None:
        """The twin, if it gives the same logits as the model."""
        if self._twin is not None and not self._compared:
            with tf.init_scope():  # also while a function is traced
                self.prove(_random_images(self._model))
        return self._twin

    def _answer(self, twin: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
        """Images -> logits of the twin with the model's current values."""
        raise NotImplementedError


def _random_images(model: keras.Model) -> tf.Tensor:
    """Random images `[2, height, width, channels]` for a model, before its data are known."""
    shape = [side or _OPEN_SIDE for side in model.input_shape[1:]]
    return tf.random.stateless_uniform([_RANDOM, *shape], [0, 1])


def _numbers(logits: Any) -> np.ndarray:
    return np.asarray(tf.cast(logits, tf.float32))


def _tolerance(model: keras.Model) -> float:
    precisions = {layer.compute_dtype for layer in model._flatten_layers(include_self=False)}
    return max((_ROUNDING.get(name, _FLOAT32) for name in precisions), default=_FLOAT32)
