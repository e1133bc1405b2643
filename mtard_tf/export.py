"""A student as a SavedModel for TF Serving, proven in a process that never imported us."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files, model_card

TOLERANCE = 1e-5

# Runs where only TensorFlow is imported: what a server sees.
_PROBE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
served = model.signatures["serving_default"](images=tf.constant(images))
encoded = tf.stack([tf.io.encode_png(image) for image in images])
decoded = model.signatures["encoded_images"](encoded=encoded)
assert "mtard_tf" not in sys.modules
floats = model.signatures["logits"](images=tf.constant(images, tf.float32) / 255.0)
np.savez(
    sys.argv[3],
    serving_default=served["logits"],
    encoded_images=decoded["logits"],
    logits=floats["logits"],
)
"""


class ExportError(ValueError):
    """An export that must not be served. Nothing is left on disk; the message is one line."""


def export(
    student: keras.Model,
    label_names: Sequence[str],
    folder: pathlib.Path,
    probe_images: np.ndarray,
    metadata: dict | None = None,
) -> pathlib.Path:
    """Writes `<folder>/<version>/`, the next free version, in TF Serving's layout.

    Two signatures return `logits`, `probabilities` (float32 `[batch, classes]`), `label`
    (int64 `[batch]`) and `label_name` (string `[batch]`):

    * `serving_default`: `images`, uint8 `[batch, height, width, channels]`, 0 to 255;
    * `encoded_images`: `encoded`, string `[batch]`, PNG or JPEG bytes, resized (bilinear) if
      their size differs from the model's.

    A third returns `logits` alone and lets gradients through, for `mtard-eval`:

    * `logits`: `images`, float32 `[batch, height, width, channels]`, 0 to 1.

    Args:
      student: from float32 images in [0, 1] to logits.
      label_names: one per class.
      folder: parent of the versions.
      probe_images: uint8 `[n, height, width, channels]`; the exported logits on them must equal the
        student's.
      metadata: from `model_card.metadata`; kept as `assets.extra/metadata.json`, and told in
        `README.md`.

    Returns:
      The folder of the new version.

    Raises:
      ExportError: a fresh process could not load what was written, or its logits differ by more
        than 1e-5 (times the largest logit, where that is above 1).
    """
    with files.temporary(folder / "version") as partial:
        _write(student, label_names, partial)
        if metadata is not None:
            files.write_json(partial / "assets.extra" / "metadata.json", metadata)
            files.write_text(partial / "README.md", model_card.text(metadata))
        _prove(student, partial, probe_images)
        files.to_disk(partial)
        return _numbered(partial, folder)


def _numbered(partial: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Gives a whole export the next free version, also while other processes do the same."""
    while True:
        versions = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        target = folder / str(max(versions, default=0) + 1)
        try:
            partial.rename(target)
        except OSError:
            if not target.exists():
                raise
        else:
            return target


def _write(student: keras.Model, label_names: Sequence[str], folder: pathlib.Path) -> None:
    shape = student.input_shape[1:]
    names = tf.constant(list(label_names))

    def logits_of(images):
        return {"logits": tf.cast(student(images, training=False), tf.float32)}

    def serve(images):
        logits = logits_of(tf.cast(images, tf.float32) / 255.0)["logits"]
        label = tf.argmax(logits, axis=-1)
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits),
            "label": label,
            "label_name": tf.gather(names, label),
        }

    def decode(encoded):
        image = tf.io.decode_image(encoded, channels=shape[-1], expand_animations=False)
        image = tf.image.resize(tf.cast(image, tf.float32), shape[:2], antialias=True)
        return tf.ensure_shape(tf.cast(tf.round(image), tf.uint8), shape)

    def serve_encoded(encoded):
        return serve(tf.map_fn(decode, encoded, fn_output_signature=tf.uint8))

    archive = keras.export.ExportArchive()
    archive.track(student)
    images = tf.TensorSpec((None, *shape), tf.uint8, name="images")
    archive.add_endpoint("serve", serve, input_signature=[images])
    encoded = tf.TensorSpec((None,), tf.string, name="encoded")
    archive.add_endpoint("encoded_images", serve_encoded, input_signature=[encoded])
    floats = tf.TensorSpec((None, *shape), tf.float32, name="images")
    archive.add_endpoint("logits", logits_of, input_signature=[floats])
    archive.write_out(str(folder), verbose=False)


def _prove(student: keras.Model, folder: pathlib.Path, images: np.ndarray) -> None:
    expected = np.asarray(student(images.astype(np.float32) / 255.0, training=False))
    with tempfile.TemporaryDirectory() as scratch:
        given, answer = pathlib.Path(scratch, "images.npy"), pathlib.Path(scratch, "logits.npz")
        np.save(given, images)
        command = [sys.executable, "-c", _PROBE, str(folder.resolve()), str(given), str(answer)]
        # An empty folder, so that a checkout in the working directory cannot be imported.
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportError(f"The exported model does not load in a fresh process: {last}")
        served = np.load(answer)
        for signature in ("serving_default", "encoded_images", "logits"):
            difference = float(np.max(np.abs(served[signature] - expected)))
            if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
                raise ExportError(
                    f"The exported {signature} differs from the student by {difference:.3g} in its "
                    f"logits (at most {TOLERANCE:g} of the largest is allowed); nothing is left."
                )


def describe(folder: pathlib.Path) -> str:
    """How to look at an exported model with TensorFlow's own tool."""
    return f"saved_model_cli show --dir {json.dumps(str(folder))} --all"
