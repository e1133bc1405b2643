"""A teacher's logits on the training images, computed once for a stage and read from then on."""

from __future__ import annotations

import pathlib
import zipfile

import keras
import numpy as np

from mtard_tf import files
from mtard_tf.data.batches import evaluation_batches
from mtard_tf.data.image_data import Split
from mtard_tf.evaluation import Evaluator
from mtard_tf.outcomes import digest
from mtard_tf.threat import ThreatModel

_BATCH = 500


def logits_of(
    teacher: keras.Model, split: Split, path: pathlib.Path, fingerprint: str, threat: ThreatModel
) -> np.ndarray:
    """The teacher's logits on every image as it is (no augmentation, no dropout), from `path`.

    They are computed, and the file is written, where it is not there or is of another teacher or
    other images.

    Args:
      teacher: from images to logits.
      split: the images.
      path: an `.npz` file.
      fingerprint: of the teacher's file.
      threat: its box is that of the images.

    Returns:
      float32 `[images, classes]`.
    """
    key = digest(fingerprint, split.images)
    found = _read(path, key)
    if found is not None:
        return found
    evaluator = Evaluator(teacher, threat)
    batches = evaluation_batches(split, _BATCH)
    logits = np.concatenate([evaluator.logits(images) for images, _, _ in batches])
    logits = logits.astype(np.float32)
    with files.replacing(path) as temporary:
        np.savez(temporary, key=np.array(key), logits=logits)
    return logits


def _read(path: pathlib.Path, key: str) -> np.ndarray | None:
    try:
        with np.load(path) as file:
            return file["logits"] if str(file["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # not there, or damaged: computed anew
