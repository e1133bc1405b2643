"""Images for a report to show: some that the probe broke and some that survived it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mtard_tf.auditing.batch_results import BatchRunner
from mtard_tf.auditing.evidence import Predictions
from mtard_tf.auditing.suite import Attack
from mtard_tf.data.batches import to_float

OF_EACH = 6


def arrays(runner: BatchRunner, probe: Attack, predictions: Predictions) -> dict[str, np.ndarray]:
    """What a page needs beside the outcomes, under names that no attack has.

    `predictions/...` are the labels and the classes predicted on clean and attacked images, from
    which the confusion follows. `images/...` are a few images, uint8 `[n, height, width,
    channels]`, before and after the probe, with the predicted class and its probability.

    Args:
      runner: of the audit.
      probe: the suite's iterated attack.
      predictions: on the audited images and under the probe.
    """
    ids = chosen(predictions)
    images = to_float(runner.split.images[ids])
    labels = runner.split.labels[ids]
    evaluator, compiled = runner.evaluator, runner.evaluator.compiled
    attacked = images
    if len(ids) and evaluator.threat.epsilon:
        batch = images, tf.constant(labels), tf.constant(ids, tf.int64)
        attacked = evaluator.perturb(probe, *batch)
    found = {
        "predictions/labels": predictions.labels,
        "predictions/clean": predictions.clean,
        "predictions/attacked": predictions.attacked,
        "images/ids": ids,
        "images/labels": labels,
    }
    for name, batch in (("clean", images), ("attacked", attacked)):
        # Of no images where the model gets none right; convolutions refuse an empty batch.
        logits = compiled.logits(batch).astype(np.float64) if len(ids) else np.zeros((0, 1))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        found[f"images/{name}"] = np.round(np.asarray(batch) * 255).astype(np.uint8)
        found[f"images/{name}_class"] = logits.argmax(axis=1)
        found[f"images/{name}_probability"] = (odds.max(axis=1) / odds.sum(axis=1)).astype("f4")
    return found


def chosen(predictions: Predictions) -> np.ndarray:
    """Which images are shown, int64: at most 6 that fell, then at most 6 that survived.

    The first of each class comes before the second of any, so that several classes are seen.
    """
    count = len(predictions.attacked)
    labels, clean = predictions.labels[:count], predictions.clean[:count]
    right, survived = clean == labels, predictions.attacked == labels
    kinds = [_spread(np.flatnonzero(kind), labels) for kind in (right & ~survived, survived)]
    return np.concatenate([kind[:OF_EACH] for kind in kinds]).astype(np.int64)


def _spread(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The same images, the first of each class first, then the second of each."""
    seen: dict[int, int] = {}
    turns = []
    for label in labels[ids].tolist():
        turns.append(seen.get(label, 0))
        seen[label] = turns[-1] + 1
    return ids[np.argsort(turns, kind="stable")]
