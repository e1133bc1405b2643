"""Checks of imported weights: the normalisation, recorded logits, the clean accuracy."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.data.batches import evaluation_batches
from mtard_tf.data.image_data import ImageData
from mtard_tf.importing.checkpoint import Checkpoint
from mtard_tf.importing.tensors import WeightsFileError
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.layers import NORMALIZATIONS, normalization_statistics

# Largest difference of logits, relative to the largest logit: two frameworks round differently, and
# the difference grows with the depth of the net.
_TOLERANCE = 1e-3

# Mean and standard deviation, one of each per channel.
Statistics = tuple[Sequence[float], Sequence[float]]


def accuracies(
    model: keras.Model, data: ImageData, examples: int | None, batch_size: int
) -> Iterator[str]:
    """The clean accuracy on test images, with the model's normalisation and the other named ones.

    For the others the images are shifted and scaled so that the model's own first layer gives what
    another normalisation would; no second model is built.

    Args:
      model: from images in [0, 1] to logits.
      data: its test split is used.
      examples: at most this many images; None for all.
      batch_size: images at a time.

    Yields:
      Lines of text; the last is a warning if another normalisation scores higher.
    """
    own = _statistics_of(model)
    names = list(NORMALIZATIONS) if data.image_shape[2] == 3 else ["raw"]
    others = {name: normalization_statistics(name, data.image_shape[2]) for name in names}
    chosen = next((name for name, numbers in others.items() if _same(numbers, own)), None)
    tried = {"chosen": own} | {name: n for name, n in others.items() if name != chosen}
    predict = tf.function(FoldedInference(model)(), reduce_retracing=True, autograph=False)
    right = dict.fromkeys(tried, 0)
    total = 0
    for images, labels, _ in evaluation_batches(data.test, batch_size, examples or None):
        total += len(labels)
        for name, statistics in tried.items():
            answers = np.argmax(predict(_moved(images, statistics, own)), axis=1)
            right[name] += int((answers == np.asarray(labels)).sum())
    shares = {name: 100 * count / total for name, count in right.items()}
    own_name = chosen or "its own normalisation"
    yield f"Accuracy on {total:,} test images of {data.name}: {shares['chosen']:.2f} % ({own_name})"
    rest = {name: share for name, share in shares.items() if name != "chosen"}
    if rest:
        yield "  with " + ", ".join(f"{name} {share:.2f} %" for name, share in rest.items())
        best = max(rest, key=lambda name: rest[name])
        if rest[best] > shares["chosen"]:
            yield (
                f"Warning: {best} scores {rest[best]:.2f} %, above the {shares['chosen']:.2f} % of "
                f"{own_name}. If these weights were trained with it, give --normalization={best}."
            )


def check_normalization(source: Checkpoint, model: keras.Model) -> str:
    """Compares the normalisation that a file holds with the model's first layer; returns a line.

    Raises:
      WeightsFileError: they differ.
    """
    theirs, ours = source.statistics, _statistics_of(model)
    if not _same(theirs, ours):
        assert theirs is not None
        mean, deviation = (",".join(f"{number:.4g}" for number in part) for part in theirs)
        raise WeightsFileError(
            f"{source.path} normalises images with other numbers than {model.name} does; give "
            f"--normalization={mean}/{deviation}, or --allow_unused to keep what you chose."
        )
    return "Normalisation: the file's own numbers, as chosen"


def check_recorded_logits(model: keras.Model, path: pathlib.Path) -> str:
    """Compares the model's logits with those recorded from the source; returns a line.

    Args:
      model: with the imported weights.
      path: `.npz` with `images` in [0, 1], `[n, height, width, channels]` or
        `[n, channels, height, width]`, and `logits`, `[n, classes]`.

    Raises:
      WeightsFileError: arrays are missing or of other shapes, or logits differ.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            images, expected = (np.asarray(file[k], np.float32) for k in ("images", "logits"))
    except Exception as error:  # NumPy's, zipfile's and the system's, for one cause
        raise WeightsFileError(
            f"{path} cannot be read ({error}); --probe is an .npz with the arrays `images` and "
            "`logits`."
        ) from error
    wanted, shape = tuple(model.input_shape[1:]), images.shape
    if images.ndim == 4 and images.shape[1:] != wanted and images.shape[1] == wanted[2]:
        images = images.transpose(0, 2, 3, 1)
    if images.shape[1:] != wanted or expected.shape != (len(images), model.output_shape[-1]):
        raise WeightsFileError(
            f"{path} has images {shape} and logits {expected.shape}; {model.name} takes "
            f"{wanted} and gives {model.output_shape[-1]} logits."
        )
    difference = float(np.abs(model(images, training=False).numpy() - expected).max())
    scale = max(1.0, float(np.abs(expected).max()))
    if not difference <= _TOLERANCE * scale:
        raise WeightsFileError(
            f"On the images of {path} the logits differ by up to {difference:.3g}, where they "
            f"reach {scale:.3g}; check the normalisation and the variant of the net. Nothing was "
            "written."
        )
    return f"Probe: logits equal to {difference:.2g} on {len(images)} images (largest {scale:.3g})"


def _statistics_of(model: keras.Model) -> Statistics | None:
    """(mean, standard deviation) of the model's first layer, or None."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            mean, variance = np.ravel(layer.mean), np.ravel(layer.variance)
            return tuple(map(float, mean)), tuple(map(float, np.sqrt(variance)))
    return None


def _same(one: Statistics | None, other: Statistics | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.shape(one) == np.shape(other) and np.allclose(one, other, atol=5e-5)


def _moved(images: tf.Tensor, wanted: Statistics | None, own: Statistics | None) -> tf.Tensor:
    """Images that `own` normalises to what `wanted` makes of the given images."""
    if _same(wanted, own):
        return images
    if wanted is not None:
        images = (images - tf.constant(wanted[0])) / tf.constant(wanted[1])
    if own is not None:
        images = images * tf.constant(own[1]) + tf.constant(own[0])
    return images
