"""The directory of a run: whose it is, and the students that lie in it."""

from __future__ import annotations

import datetime
import difflib
import os
import pathlib
import platform

import keras
import tensorflow as tf

from mtard_tf import files


class RunError(ValueError):
    """A run directory that cannot be used. The message says why, and what to do."""


def claim(run_dir: pathlib.Path, config: str) -> None:
    """Makes the run directory this configuration's, or refuses with the difference."""
    path = run_dir / "config.gin"
    if path.exists():
        before = path.read_text(encoding="utf-8")
        if before != config:
            difference = "\n".join(
                difflib.unified_diff(
                    before.splitlines(), config.splitlines(), str(path), "now", lineterm="", n=0
                )
            )
            raise RunError(
                f"{run_dir} holds a run of another configuration; choose another --run_dir, or "
                f"remove it:\n{difference}"
            )
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        files.write_text(path, config)
        files.write_json(run_dir / "environment.json", environment())
    except OSError as error:
        raise RunError(
            f"{run_dir} cannot be written ({error.strerror}); choose another --run_dir."
        ) from error


def environment() -> dict:
    """Where a run took place."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
    }


def student_path(run_dir: pathlib.Path, source: str) -> pathlib.Path:
    """The file of a teacher: that of a stage of the run, or a path."""
    if source.endswith(".keras"):
        return pathlib.Path(source)
    return run_dir / source / "student.keras"


def existing(run_dir: pathlib.Path, source: str) -> pathlib.Path:
    """The file of a teacher.

    Raises:
      RunError: it is not there.
    """
    path = student_path(run_dir, source)
    if not path.exists():
        way = "put it there" if path == pathlib.Path(source) else f"run the stage {source!r} first"
        raise RunError(f"{path} is missing; {way}, or name another teacher.")
    return path


def load_student(run_dir: pathlib.Path, source: str) -> keras.Model:
    """Loads a stage's student, or a model file.

    Raises:
      RunError: the file is missing or is not a Keras model.
    """
    path = existing(run_dir, source)
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        raise RunError(
            f"{path} is not a readable .keras file ({' '.join(str(error).split())[:200]}); put a "
            "whole one there, or, for a stage's, remove the stage's folder to train it anew."
        ) from error
