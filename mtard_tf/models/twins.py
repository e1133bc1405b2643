"""Whether a rebuilt net may run in a model's place: only where a probe shows that it is the same.

A layer of one's own may be rebuilt otherwise than it was (an argument that its config does not
keep), may not be rebuilt at all, or may draw random numbers, which a twin with values of the moment
would draw once for many calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Images of a probe; two where none are given.
PROBED, _STAND_INS = 16, 2
# Difference relative to the largest logit that rounding explains, by the precision of a layer.
_ROUNDING = {"float16": 0.1, "bfloat16": 0.3}
_FLOAT32 = 1e-3
# Two calls of one net may differ by rounding on some devices.
_REPEATABLE = 1e-5
# Side of stand-ins for images of any size.
_OPEN_SIDE = 32


def equal(
    model: keras.Model, twin: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor, training: bool
) -> bool:
    """Whether `twin` gives the model's logits, and the model the same ones each time.

    Nothing of the model is changed. In inference its state must stay: a net that moves it, or draws
    numbers, answers otherwise at each call. In training the same state must give the same logits.

    Args:
      model: functional.
      twin: images -> logits; whatever it raises is a no.
      images: float32; the first few are looked at.
      training: mode of the model.
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
    except Exception:  # whatever a layer of somebody's raises
        return False
    if not training and any(not np.array_equal(a, b) for a, b in zip(moved, state, strict=True)):
        return False
    scale = float(np.abs(first).max())
    repeated = max(np.abs(first - second).max(), np.abs(ours - again).max()) <= _REPEATABLE * scale
    return bool(repeated and np.abs(first - ours).max() <= _tolerance(model) * scale)


def stand_ins(model: keras.Model) -> tf.Tensor:
    """Random images for a model whose images are not known yet."""
    shape = [side or _OPEN_SIDE for side in model.input_shape[1:]]
    return tf.random.stateless_uniform([_STAND_INS, *shape], [0, 1])


def _numbers(logits: Any) -> np.ndarray:
    return np.asarray(tf.cast(logits, tf.float32))


def _tolerance(model: keras.Model) -> float:
    precisions = {layer.compute_dtype for layer in model.layers}
    return max((_ROUNDING.get(name, _FLOAT32) for name in precisions), default=_FLOAT32)
