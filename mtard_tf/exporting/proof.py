"""Compares each exported file with the student, in a process that never imported this package."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from mtard_tf import files
from mtard_tf.exporting import probe
from mtard_tf.exporting.formats import FORMATS, INT8, SAVED_MODEL, ExportError

TOLERANCE = 1e-5


def prove(
    name: str, path: pathlib.Path, images: np.ndarray, expected: np.ndarray, min_agreement: float
) -> dict[str, Any]:
    """What is to be known of an exported file.

    Args:
      name: its format.
      path: the file, or the folder of a SavedModel.
      images: uint8 `[n, height, width, channels]`.
      expected: the student's logits on them, `[n, classes]`.
      min_agreement: share of the images on which a format that rounds must give the same label.

    Returns:
      `bytes`, `sha256` by file, `agreement`, `images`, `difference`: the largest of a logit, and
      `milliseconds`: of one image on one thread, the median. Of a SavedModel also `openvino`, see
      `by_openvino`, where that is installed.

    Raises:
      ExportError: it does not load, answers a request that it should refuse, or differs too much.
    """
    said = _answers(name, path, images)
    milliseconds = float(said.pop("milliseconds"))
    differences = [float(np.abs(logits - expected).max()) for logits in said.values()]
    labels = np.argmax(expected, axis=1)
    agreement = min(float(np.mean(np.argmax(z, axis=1) == labels)) for z in said.values())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    for signature, difference in zip(said, differences, strict=True):
        if FORMATS[name].exact and not difference <= allowed:
            raise ExportError(
                f"The exported {signature} ({name}) differs from the student by {difference:.3g} "
                f"in its logits (at most {TOLERANCE:g} of the largest is allowed); nothing was "
                "written."
            )
    finite = all(np.isfinite(difference) for difference in differences)
    if not (FORMATS[name].exact or (finite and agreement >= min_agreement)):
        way = (
            "give --calibration=mixed or more --calibration_images"
            if name == INT8
            else "take litert"
        )
        raise ExportError(
            f"The exported {name} gives the student's label on {agreement:.1%} of {len(images)} "
            f"images, and {min_agreement:.1%} is required: {way}, or a lower --min_agreement; "
            "nothing was written."
        )
    found = by_openvino(path, images, expected) if name == SAVED_MODEL else None
    return {
        **_contents(path),
        "agreement": agreement,
        "images": len(images),
        "difference": max(differences),
        "milliseconds": round(milliseconds, 4),
        **({} if found is None else {"openvino": found}),
    }


def by_openvino(
    path: pathlib.Path, images: np.ndarray, expected: np.ndarray
) -> dict[str, Any] | None:
    """What OpenVINO makes of a SavedModel, in float32; None where it is not installed.

    It is another's runtime, and so refuses no export.

    Args:
      path: the folder.
      images: uint8 `[n, height, width, channels]`.
      expected: the student's logits on them, `[n, classes]`.

    Returns:
      `difference` and `milliseconds` as in `prove`, or why it does not work: `failure`.
    """
    if importlib.util.find_spec("openvino") is None:
        return None
    said = _asked("openvino", path, images)
    if isinstance(said, str):
        return {"failure": said}
    difference = float(np.abs(said["serving_default"] - expected).max())
    return {"difference": difference, "milliseconds": round(float(said["milliseconds"]), 4)}


def logits(name: str, path: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """What a file says of uint8 images in a fresh process, float32 `[n, classes]`."""
    return _answers(name, path, images)["logits"]


def _answers(name: str, path: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    said = _asked(name, path, images)
    if isinstance(said, str):
        raise ExportError(
            f"The exported {name} does not work in a fresh process: {said}; nothing was written."
        )
    return said


def _asked(name: str, path: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray] | str:
    """What `probe` writes; its error if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        given, answer = pathlib.Path(scratch, "images.npy"), pathlib.Path(scratch, "logits.npz")
        np.save(given, images)
        # Only TensorFlow takes a path for a pattern.
        whole = files.literal if name == SAVED_MODEL else contextlib.nullcontext
        with whole(path) as place:
            command = [sys.executable, probe.__file__, name, str(place.resolve())]
            # An empty folder, so that a checkout in the working directory cannot be imported.
            done = subprocess.run(
                [*command, str(given), str(answer)], cwd=scratch, capture_output=True, text=True
            )
        if done.returncode:
            return _reason(done)
        with np.load(answer) as found:
            return dict(found)


def _reason(done: subprocess.CompletedProcess) -> str:
    """The error that ended a process, in one line; its last line if Python raised none."""
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    errors = [i for i, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return " ".join(" ".join(lines[errors[-1] if errors else -1 :]).split())[:300]


def _contents(path: pathlib.Path) -> dict[str, Any]:
    """Size and digests of a file, or of a folder that holds a SavedModel and nothing else."""
    base = path if path.is_dir() else path.parent
    found = (
        [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    )
    contents = {file.relative_to(base).as_posix(): file.read_bytes() for file in found}
    return {
        "bytes": sum(map(len, contents.values())),
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
