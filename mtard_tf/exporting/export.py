"""A student as the files that are asked for, each proven before any of them is there."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files
from mtard_tf.exporting import converting, model_card, proof, saved_model
from mtard_tf.exporting.formats import FORMATS, INT8, SAVED_MODEL, Wanted

_BATCH = 100


def export(
    student: keras.Model,
    label_names: Sequence[str],
    folder: pathlib.Path,
    probe_images: np.ndarray,
    metadata: Mapping[str, Any] | None = None,
    wanted: Wanted | None = None,
    calibration: np.ndarray | None = None,
) -> pathlib.Path:
    """Writes `<folder>/<version>/`, the next free version, in TF Serving's layout.

    Args:
      student: from float32 images in [0, 1] to logits.
      label_names: one per class.
      folder: parent of the versions.
      probe_images: uint8 `[n, height, width, channels]`; the files take images of their shape, and
        are held against the student on them.
      metadata: from `model_card.metadata`; kept as `assets.extra/metadata.json`, and the
        source of `README.md`. What the files are is added to it as `formats`.
      wanted: the formats; default a SavedModel alone.
      calibration: float32 images in [0, 1] for `litert_int8`, see `calibration_images`.

    Returns:
      The folder of the new version.

    Raises:
      ExportError: the student cannot be written in a format, a fresh process could not run what was
        written, or its logits differ by more than 1e-5 (times the largest logit, where that is
        above 1), or, where the format rounds, its labels do.
    """
    wanted = wanted or Wanted()
    with files.temporary(folder / "version") as partial:
        partial.mkdir()
        formats = _written(
            student, label_names, partial, probe_images, metadata, wanted, calibration
        )
        extra = partial / "assets.extra"
        extra.mkdir()
        files.write_json(extra / "metadata.json", {**(metadata or {}), "formats": formats})
        if metadata is not None:
            card = model_card.text({**metadata, "formats": formats})
            files.write_text(partial / "README.md", card)
        files.to_disk(partial)
        return _numbered(partial, folder)


def _written(
    student: keras.Model,
    label_names: Sequence[str],
    folder: pathlib.Path,
    images: np.ndarray,
    metadata: Mapping[str, Any] | None,
    wanted: Wanted,
    calibration: np.ndarray | None,
) -> dict[str, dict[str, Any]]:
    """Writes and proves the formats; what is to be known of each, in the order of `FORMATS`."""
    height, width, channels = images.shape[1:]
    expected = _logits(student, images)
    known = converting.known(list(label_names), metadata or {})
    formats: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        source = pathlib.Path(scratch, "source")
        for name in [name for name in FORMATS if name in wanted.names]:
            path = folder / FORMATS[name].file
            if name == SAVED_MODEL:
                # First: it is the folder, and counts what is in it.
                saved_model.write(student, label_names, (height, width, channels), path)
            else:
                if not source.exists():
                    converting.source(student, (height, width, channels), source)
                converting.convert(name, source, path, known, calibration)
            formats[name] = proof.prove(name, path, images, expected, wanted.min_agreement)
            if name == INT8 and calibration is not None:
                formats[name]["calibration"] = {
                    "kind": wanted.calibration,
                    "images": len(calibration),
                }
    return formats


def known_formats(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """What an export knows of its files, by format."""
    return files.read_json(folder / "assets.extra" / "metadata.json")["formats"]


def _logits(student: keras.Model, images: np.ndarray) -> np.ndarray:
    """The student's logits on uint8 images."""
    parts = [
        student(tf.cast(images[i : i + _BATCH], tf.float32) / 255.0, training=False)
        for i in range(0, len(images), _BATCH)
    ]
    return np.concatenate([np.asarray(tf.cast(part, tf.float32)) for part in parts])


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
