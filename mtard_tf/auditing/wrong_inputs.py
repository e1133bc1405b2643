"""What a model may expect instead of images in [0, 1]: tried on a few images."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from mtard_tf.auditing.chance import at_chance, largest_share
from mtard_tf.data.batches import to_float
from mtard_tf.data.image_data import Split
from mtard_tf.models.adapters import adapted
from mtard_tf.models.layers import NORMALIZATIONS

_IMAGES = 128


def hint(model: Any, split: Split) -> str:
    """One line on the flag that a model seems to lack, or "" where none makes it better.

    Better is: right on more of the images that one of the two gets wrong than is left to luck,
    three standard deviations of a fair coin. Of several that are, the one with the least
    cross-entropy: a ReLU net's labels hardly depend on a scale, its confidence does.

    Args:
      model: from images to logits, of the right shapes.
      split: with labels; its first 128 images are tried.
    """
    if not isinstance(model, keras.Model) or not len(split):
        return ""
    few = split.take(np.arange(min(len(split), _IMAGES)))
    share, total = largest_share(few.labels), len(few)
    right, _ = _tried(model, few)
    count, found = int(right.sum()), {}
    for flag, changes in _candidates(split.images.shape[-1]).items():
        other, loss = _tried(adapted(model, **changes), few)
        better, luck = int(other.sum()), 3 * math.sqrt((right != other).sum())
        if not at_chance(better, total, share) and better - count > luck:
            found[flag] = (loss, better)
    if not found:
        return ""
    best, (_, better) = min(found.items(), key=lambda item: item[1])
    guessing = ", no better than guessing" if at_chance(count, total, share) else ""
    return (
        f"{model.name} gets {count} of the first {total} images right{guessing}; with {best} "
        f"it would be {better}: give that flag if the model was trained that way."
    )


def _candidates(channels: int) -> dict[str, dict]:
    candidates: dict[str, dict] = {"--input_scale=255": {"input_scale": 255.0}}
    for name, values in NORMALIZATIONS.items():
        if values is not None and len(values[0]) == channels:
            candidates[f"--normalization={name}"] = {"normalization": name}
    return candidates


def _tried(model: keras.Model, split: Split) -> tuple[np.ndarray, float]:
    """Which images are classified rightly, and the mean cross-entropy."""
    logits = np.asarray(model(to_float(split.images), training=False)).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    of_label = logits[np.arange(len(split)), split.labels]
    loss = np.log(np.exp(logits).sum(axis=1)) - of_label
    return np.asarray(logits.argmax(axis=1) == split.labels), float(loss.mean())
