"""Exports a student to the requested formats; each file is checked before any is published."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files, monitor
from mtard_tf.data.image_data import ImageData
from mtard_tf.exporting import converting, int8, model_card, proof, saved_model
from mtard_tf.exporting.calibration import Calibration, calibrate
from mtard_tf.exporting.formats import FORMATS, INT8, SAVED_MODEL, Wanted
from mtard_tf.threat import ThreatModel

_BATCH = 100
_METADATA = "assets.extra/metadata.json"


def export(
    student: keras.Model,
    label_names: Sequence[str],
    folder: pathlib.Path,
    probe_images: np.ndarray,
    metadata: Mapping[str, Any] | None = None,
    wanted: Wanted | None = None,
    data: ImageData | None = None,
    threat: ThreatModel | None = None,
) -> pathlib.Path:
    """Writes `<folder>/<version>/`, the next free version, in TF Serving's layout.

    Args:
      student: from float32 images in [0, 1] to logits.
      label_names: one per class.
      folder: parent of the versions.
      probe_images: uint8 `[n, height, width, channels]`, in memory or on disk; the files take
        images of their shape, and are held against the student on them.
      metadata: from `model_card.metadata`; kept as `assets.extra/metadata.json`, and the
        source of `README.md`. What the files are is added to it as `formats`.
      wanted: the formats; default a SavedModel alone.
      data: for `litert_int8`: training images give its ranges; and for the calibration of
        probabilities.
      threat: of the attacks of both.

    Returns:
      The folder of the new version.

    Raises:
      ExportError: the student cannot be written in a format, a fresh process could not run what was
        written, or its logits differ by more than 1e-5 (times the largest logit, where that is
        above 1), or, where the format rounds, its labels do.
    """
    wanted, probe_images = wanted or Wanted(), np.asarray(probe_images)
    with files.temporary(folder / "version") as partial:
        partial.mkdir()
        calibration = None
        if wanted.calibrate:
            assert data is not None and threat is not None  # the caller's part
            calibration = calibrate(student, data, threat, wanted.coverage)
        settings = (wanted, metadata or {}, data, threat, calibration)
        formats = _Writer(student, label_names, probe_images, *settings).write(partial)
        (partial / "assets.extra").mkdir()
        known = {**(metadata or {}), "formats": formats}
        if calibration is not None:
            known["calibration"] = calibration.known
            files.write_json(partial / monitor.FILE, calibration.reference.content())
        files.write_json(partial / _METADATA, known)
        if metadata is not None:
            files.write_text(partial / "README.md", model_card.text(known))
        files.to_disk(partial)
        return _numbered(partial, folder)


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Writes and proves the formats of one export; the fields are arguments of `export`."""

    student: keras.Model
    label_names: Sequence[str]
    images: np.ndarray
    wanted: Wanted
    metadata: Mapping[str, Any]
    data: ImageData | None
    threat: ThreatModel | None
    calibration: Calibration | None

    def write(self, folder: pathlib.Path) -> dict[str, dict[str, Any]]:
        """What is to be known of each format, in the order of `FORMATS`."""
        expected = _logits(self.student, self.images)
        with tempfile.TemporaryDirectory() as scratch:
            source = pathlib.Path(scratch, "source")
            formats = {}
            # The SavedModel is first: it is the folder, and counts what is in it.
            for name in [name for name in FORMATS if name in self.wanted.names]:
                prove = functools.partial(
                    proof.prove,
                    name,
                    folder / FORMATS[name].file,
                    self.images,
                    expected,
                    self.wanted.min_agreement,
                )
                formats[name] = self._format(name, folder, source, prove)
            return formats

    def _format(
        self, name: str, folder: pathlib.Path, source: pathlib.Path, prove: Callable[[], dict]
    ) -> dict[str, Any]:
        height, width, channels = self.images.shape[1:]
        shape = (height, width, channels)
        file = folder / FORMATS[name].file
        if name == SAVED_MODEL:
            saved_model.write(self.student, self.label_names, shape, folder, self.calibration)
            return prove()
        if not source.exists():
            converting.source(self.student, shape, source)
        if name == INT8:
            assert self.data is not None and self.threat is not None  # the caller's part
            args = (self.wanted, self.data, self.threat, prove)
            return int8.write(self.student, source, file, *args)
        temperature = self.calibration.temperature if self.calibration else None
        known = converting.known(list(self.label_names), self.metadata, temperature)
        converting.convert(name, source, file, known)
        return prove()


def known(folder: pathlib.Path) -> dict[str, Any]:
    """What an export knows of itself: its files in `formats`; `calibration`, if it has one."""
    return files.read_json(folder / _METADATA)


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
