"""What a model at chance may expect instead of images in [0, 1]: tried on a few images."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from mtard_tf.auditing.chance import at_chance, largest_share
from mtard_tf.data.batches import to_float
from mtard_tf.data.image_data import Split
from mtard_tf.models.adapters import adapted
from mtard_tf.models.layers import NORMALIZATIONS

_IMAGES = 256


def hint(model: Any, split: Split) -> str:
    """One line on the flag that a model seems to lack, or "" where none makes it better.

    Args:
      model: from images to logits, of the right shapes.
      split: with labels; its first 256 images are tried.
    """
    if not isinstance(model, keras.Model) or not len(split):
        return ""
    few = split.take(np.arange(min(len(split), _IMAGES)))
    share, total = largest_share(few.labels), len(few)
    right = _right(model, few)
    if not at_chance(right, total, share):
        return ""
    found = {}
    for flag, changes in _candidates(split.images.shape[-1]).items():
        found[flag] = _right(adapted(model, **changes), few)
    best = max(found, key=lambda flag: found[flag])
    if at_chance(found[best], total, share):
        return ""
    return (
        f"{model.name} gets {right} of the first {total} images right, as by guessing; with {best} "
        f"it would be {found[best]}: give that flag if the model was trained so."
    )


def _candidates(channels: int) -> dict[str, dict]:
    candidates: dict[str, dict] = {"--input_scale=255": {"input_scale": 255.0}}
    for name, values in NORMALIZATIONS.items():
        if values is not None and len(values[0]) == channels:
            candidates[f"--normalization={name}"] = {"normalization": name}
    return candidates


def _right(model: keras.Model, split: Split) -> int:
    logits = np.asarray(model(to_float(split.images), training=False))
    return int((logits.argmax(axis=1) == split.labels).sum())
