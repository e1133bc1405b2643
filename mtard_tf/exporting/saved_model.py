"""A student as a SavedModel for TF Serving, proven in a process that never imported us.

Two signatures return `logits`, `probabilities` (float32 `[batch, classes]`), `label`
(int64 `[batch]`) and `label_name` (string `[batch]`):

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
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files
from mtard_tf.exporting import encoded_images, model_card

TOLERANCE = 1e-5

# Runs where only TensorFlow is imported: what a server sees.
_PROBE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
given = {
    "serving_default": {"images": tf.constant(images)},
    "encoded_images": {"encoded": tf.stack([tf.io.encode_png(x) for x in images[..., :3]])},
    "logits": {"images": tf.constant(images, tf.float32) / 255.0},
}
answers = {}
for name in set(given) & set(model.signatures):
    (key, tensor), = given[name].items()
    answer = model.signatures[name]
    answers[name] = answer(**{key: tensor})["logits"]
    empty = answer(**{key: tensor[:0]})["logits"]
    assert empty.shape == (0, *answers[name].shape[1:]), f"{name} of no images is {empty.shape}"
    try:
        answer(**{key: tensor[None]})
        raise AssertionError(f"{name} answers a request of another rank")
    except tf.errors.InvalidArgumentError:
        pass
assert "mtard_tf" not in sys.modules
np.savez(sys.argv[3], **answers)
"""


class ExportError(ValueError):
    """A failed export, of which nothing is left on disk. The message is one line."""


def export(
    student: keras.Model,
    label_names: Sequence[str],
    folder: pathlib.Path,
    probe_images: np.ndarray,
    metadata: dict | None = None,
) -> pathlib.Path:
    """Writes `<folder>/<version>/`, the next free version, in TF Serving's layout.

    Args:
      student: from float32 images in [0, 1] to logits.
      label_names: one per class.
      folder: parent of the versions.
      probe_images: uint8 `[n, height, width, channels]`; the signatures take images of their shape,
        and the exported logits on them must equal the student's.
      metadata: from `model_card.metadata`; kept as `assets.extra/metadata.json`, and the
        source of `README.md`.

    Returns:
      The folder of the new version.

    Raises:
      ExportError: the student cannot be written as a SavedModel, a fresh process could not load
        what was written, or its logits differ by more than 1e-5 (times the largest logit, where
        that is above 1).
    """
    with files.temporary(folder / "version") as partial:
        height, width, channels = probe_images.shape[1:]
        try:
            _write(student, label_names, (height, width, channels), partial)
        except Exception as error:
            raise ExportError(
                f"{student.name} cannot be written as a SavedModel "
                f"({' '.join(str(error).split())[:200]}); nothing is left."
            ) from error
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


def _write(
    student: keras.Model,
    label_names: Sequence[str],
    shape: tuple[int, int, int],
    folder: pathlib.Path,
) -> None:
    names = tf.constant(list(label_names))

    def model_fn(images: tf.Tensor) -> tf.Tensor:
        # See `models.empty_batches`, whose padding LiteRT's converter does not take.
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
            "probabilities": tf.nn.softmax(logits),
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


def _prove(student: keras.Model, folder: pathlib.Path, images: np.ndarray) -> None:
    expected = np.asarray(student(images.astype(np.float32) / 255.0, training=False))
    with tempfile.TemporaryDirectory() as scratch, files.literal(folder) as place:
        given, answer = pathlib.Path(scratch, "images.npy"), pathlib.Path(scratch, "logits.npz")
        np.save(given, images)
        command = [sys.executable, "-c", _PROBE, str(place.resolve()), str(given), str(answer)]
        # An empty folder, so that a checkout in the working directory cannot be imported.
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        if done.returncode:
            raise ExportError(
                f"The exported model does not load in a fresh process: {_reason(done.stderr)}"
            )
        for signature, logits in np.load(answer).items():
            difference = float(np.max(np.abs(logits - expected)))
            if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
                raise ExportError(
                    f"The exported {signature} differs from the student by {difference:.3g} in its "
                    f"logits (at most {TOLERANCE:g} of the largest is allowed); nothing is left."
                )


def _reason(stderr: str) -> str:
    """The error that ended a process, in one line; its last line if Python raised none."""
    lines = stderr.strip().splitlines() or ["no message"]
    errors = [i for i, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return " ".join(" ".join(lines[errors[-1] if errors else -1 :]).split())[:300]


def describe(folder: pathlib.Path) -> str:
    """How to look at an export with TensorFlow's own tool, and whether it can be served there."""
    look = f"Look at it: saved_model_cli show --dir {json.dumps(str(folder))} --all"
    if files.is_pattern(folder):
        look += (
            "\nCopy it before it is served: TensorFlow cannot load a model from a path that has "
            "*, ?, [ or a backslash in it."
        )
    return look
