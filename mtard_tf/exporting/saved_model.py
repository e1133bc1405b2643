"""A student as a SavedModel, in TensorFlow Serving's form.

Two signatures return `logits`, `probabilities` (float32 `[batch, classes]`), `label`
(int64 `[batch]`) and `label_name` (string `[batch]`):

With a `calibration`, `probabilities` are softmax(logits / T), and there are `confidence` (float32
`[batch]`, the largest of them) and `accepted` (bool `[batch]`: it reaches the threshold).

* `serving_default`: `images`, uint8 `[batch, height, width, channels]`, 0 to 255;
* `encoded_images`: `encoded`, string `[batch]`, PNG or JPEG bytes of up to 4,096 pixels a side,
  resized (bilinear) if their size differs from the model's; absent unless the images have 1
  or 3 channels.

A third returns `logits` alone and lets gradients through, for `mtard-eval`:

* `logits`: `images`, float32 `[batch, height, width, channels]`, 0 to 1.

A batch may be empty. Images of another rank, size or number of channels, and bytes that are no
image, are an InvalidArgumentError; the process survives it.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import keras
import tensorflow as tf

from mtard_tf import files
from mtard_tf.exporting import encoded_images
from mtard_tf.exporting.calibration import Calibration
from mtard_tf.exporting.formats import ExportError


def write(
    student: keras.Model,
    label_names: Sequence[str],
    shape: tuple[int, int, int],
    folder: pathlib.Path,
    calibration: Calibration | None = None,
) -> None:
    """Writes the SavedModel.

    Args:
      student: from float32 images in [0, 1] to logits.
      label_names: one per class.
      shape: height, width and channels of the images that the signatures take.
      folder: to be made.
      calibration: of the probabilities; None leaves them as they are.

    Raises:
      ExportError: the student cannot be written as one.
    """
    try:
        _write(student, label_names, shape, folder, calibration)
    except Exception as error:
        raise ExportError(
            f"{student.name} cannot be written as a SavedModel "
            f"({' '.join(str(error).split())[:200]}); nothing was written."
        ) from error


def _write(
    student: keras.Model,
    label_names: Sequence[str],
    shape: tuple[int, int, int],
    folder: pathlib.Path,
    calibration: Calibration | None,
) -> None:
    names = tf.constant(list(label_names))

    def model_fn(images: tf.Tensor) -> tf.Tensor:
        # See `models.cpu_kernels`, whose padding LiteRT's converter does not take.
        count = tf.shape(images)[0]
        black = tf.zeros((tf.maximum(1 - count, 0), *shape))
        logits = student(tf.concat([images, black], axis=0), training=False)
        return tf.cast(logits, tf.float32)[:count]

    # Each begins with ensure_shape: TensorFlow's runtime does not hold a request to the signature,
    # and of another rank oneDNN aborts the process.
    def logits_of(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model_fn(tf.ensure_shape(images, (None, *shape)))}

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.ensure_shape(images, (None, *shape))
        logits = model_fn(tf.cast(images, tf.float32) / 255.0)
        label = tf.argmax(logits, axis=-1)
        return {
            "logits": logits,
            **_probabilities(logits, calibration),
            "label": label,
            "label_name": tf.gather(names, label),
        }

    def serve_encoded(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        return serve(encoded_images.decode(tf.ensure_shape(encoded, (None,)), shape))

    # Not `archive.track(student)`, which writes all weights a second time.
    archive = keras.export.ExportArchive()
    images = tf.TensorSpec((None, *shape), tf.uint8, name="images")
    archive.add_endpoint("serve", serve, input_signature=[images])
    if shape[-1] in encoded_images.CHANNELS:
        encoded = tf.TensorSpec((None,), tf.string, name="encoded")
        archive.add_endpoint("encoded_images", serve_encoded, input_signature=[encoded])
    floats = tf.TensorSpec((None, *shape), tf.float32, name="images")
    archive.add_endpoint("logits", logits_of, input_signature=[floats])
    archive.write_out(str(folder), verbose=False)


def _probabilities(logits: tf.Tensor, calibration: Calibration | None) -> dict[str, tf.Tensor]:
    if calibration is None:
        return {"probabilities": tf.nn.softmax(logits)}
    probabilities = tf.nn.softmax(logits / calibration.temperature)
    confidence = tf.reduce_max(probabilities, axis=-1)
    accepted = confidence >= calibration.threshold
    return {"probabilities": probabilities, "confidence": confidence, "accepted": accepted}


def describe(folder: pathlib.Path) -> str:
    """How to look at an export with TensorFlow's own tool, and whether it can be served there."""
    look = f"Look at it: saved_model_cli show --dir {json.dumps(str(folder))} --all"
    if files.is_pattern(folder):
        look += (
            "\nCopy it before it is served: TensorFlow cannot load a model from a path that has "
            "*, ?, [ or a backslash in it."
        )
    return look
