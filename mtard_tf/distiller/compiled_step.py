"""Whether XLA compiles a training step, and into the same step: tried on one batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.data.batches import to_float
from mtard_tf.data.image_data import ImageData

# How far apart two equal steps may be, relative to the loss and to the update. Other sums round
# otherwise: where a gradient is next to nothing an attack or Adam takes its sign all the same.
_FLOAT32, _HALF = (1e-3, 0.1), (0.05, 0.5)


def choose(
    setting: bool | None,
    distiller: keras.Model,
    data: ImageData,
    batch_size: int,
    say: Callable[[str], None],
) -> bool:
    """Has Keras compile the distiller's step by XLA where that is asked for and the step stays.

    Args:
      setting: `Stage.jit_compile`; None asks for it on one GPU.
      distiller: compiled, of this stage; nothing of its state is changed.
      data: whose first training images are tried.
      batch_size: how many.
      say: given one line, on what came out, unless it was not asked for.
    """
    if setting is None:
        alone = distiller.distribute_strategy is tf.distribute.get_strategy()
        setting = alone and bool(tf.config.list_physical_devices("GPU"))
    if setting:
        reason, found = _difference(distiller, _batch(distiller, data, batch_size))
        say(f"XLA {reason or 'compiles the step'}{found}{'; it trains without' * bool(reason)}.")
        setting = not reason
    distiller.jit_compile = setting
    return setting


def _batch(distiller: Any, data: ImageData, batch_size: int) -> tuple[tf.Tensor, ...]:
    """The first images with random labels and, of teachers that are cached, random logits."""
    images = to_float(data.train.images[:batch_size])
    count, random = len(images), np.random.default_rng(0)
    logits = tf.constant(random.normal(size=(count, data.num_classes)), tf.float32)
    labels = tf.constant(random.integers(0, data.num_classes, count), tf.int32)
    ids = tf.range(count, dtype=tf.int64)
    return (images, labels, ids, *[logits] * distiller.cached_parts)


def _difference(distiller: Any, batch: Sequence[tf.Tensor]) -> tuple[str, str]:
    """Why XLA's first step is not the plain one, "" if it is, and the figures in brackets."""
    variables = [*distiller.variables, *distiller.optimizer.variables]
    before = [tf.identity(variable.value) for variable in variables]

    def stepped(jit: bool | None) -> tuple[float, np.ndarray]:
        """The loss, and by how much the step moves all weights, as one row."""
        function = tf.function(
            lambda *rows: distiller.train_step(rows),
            input_signature=[tf.TensorSpec([None, *row.shape[1:]], row.dtype) for row in batch],
            autograph=False,
            jit_compile=jit,
        )
        start = [np.asarray(v.numpy(), np.float64) for v in distiller.trained_variables]
        try:
            loss = float(function(*batch)["loss"])
            pairs = zip(distiller.trained_variables, start, strict=True)
            return loss, np.concatenate([np.ravel(v.numpy() - old) for v, old in pairs])
        finally:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)

    loss, moved = stepped(None)
    try:
        other, others = stepped(True)
    except (tf.errors.OpError, ValueError, TypeError, NotImplementedError) as error:
        return "does not compile the step", f" ({_reason(error)})"
    apart = abs(other - loss) / max(abs(loss), 1e-12)
    update = float(np.linalg.norm(others - moved) / max(np.linalg.norm(moved), np.float64(1e-12)))
    precisions = [layer.compute_dtype for layer in distiller._flatten_layers()]
    half = "16" in " ".join([*precisions, distiller.context.attack_precision or ""])
    most, furthest = _HALF if half else _FLOAT32
    equal = apart <= most and update <= furthest
    figures = f" (first loss {apart:.1g}, update {update:.1g} apart)"
    return "" if equal else "computes another step", figures


def _reason(error: Exception) -> str:
    missing = dict.fromkeys(re.findall(r"\(No registered '(\w+)'", str(error)))
    if missing:
        return f"no kernel for {', '.join(missing)}"
    return " ".join(str(error).split())[:120]
