"""The directory of a run: its configuration, its environment, and the students in it."""

from __future__ import annotations

import contextlib
import datetime
import difflib
import os
import pathlib
import platform
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import __version__, files, keras_environment
from mtard_tf.config import plugin_files
from mtard_tf.data.image_data import ImageData
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.experiment.sources import is_path
from mtard_tf.models import model_files
from mtard_tf.models.model_files import EvaluationError
from mtard_tf.models.precision import native_bfloat16
from mtard_tf.reporting import run_files
from mtard_tf.reporting.run_view import STAGES
from mtard_tf.running.machine import cores, threads

PROBE_IMAGES = "probe_images.npy"
# What a run is known by: begun with gin files, or from Python.
CONFIG, EXPERIMENT = "config.gin", "experiment.json"


class RunError(ValueError):
    """A run directory that cannot be used. The message says why, and what to do."""


def claim(run_dir: pathlib.Path, config: str, name: str = CONFIG) -> None:
    """Makes the run directory this configuration's, or refuses with the difference.

    Args:
      run_dir: made if it is not there.
      config: what the run is known by.
      name: of the file that keeps it.

    Raises:
      RunError: it is another's.
    """
    other = run_dir / (EXPERIMENT if name == CONFIG else CONFIG)
    if other.exists():
        begun = "from Python" if name == CONFIG else "with gin files"
        raise RunError(f"{run_dir} holds a run that was begun {begun}; choose another --run_dir.")
    path = run_dir / name
    if path.exists():
        try:
            before = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RunError(
                f"{path} is not text ({error}); restore it from a copy, or choose another "
                "--run_dir."
            ) from error
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
        plugin_files.keep(run_dir, begun=True)
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        files.write_json(run_dir / "environment.json", environment())
        plugin_files.keep(run_dir, begun=False)
        files.write_text(path, config)  # last: from then on this is a run
    except OSError as error:
        raise RunError(
            f"{run_dir} cannot be written ({error.strerror}); choose another --run_dir."
        ) from error


def note_stages(run_dir: pathlib.Path, experiment: Experiment) -> None:
    """Writes `stages.json`: the stages as they are planned, and the name that the run began with.

    The run's page is made from it, so it is the same wherever the run lies by then.
    """
    path = run_dir / STAGES
    before: Any = None
    with contextlib.suppress(FileNotFoundError, ValueError):  # none, or damaged: written anew
        before = files.read_json(path)
    known = before if isinstance(before, dict) else {}
    planned = {
        "format": files.FORMAT,
        "name": known.get("name", run_dir.resolve().name),
        "threat": {"norm": experiment.norm, "epsilon": float(experiment.threat.epsilon)},
        "seed": experiment.seed,
        "stages": [
            {
                "name": stage.name,
                "distiller": getattr(stage.distiller, "__name__", repr(stage.distiller)),
                "teachers": dict(stage.teachers),
                "initial": stage.initial,
                "epochs": stage.epochs,
            }
            for stage in experiment.stages
        ],
    }
    if planned != before:
        files.write_json(path, planned)


def environment() -> dict:
    """Versions, devices and working directory of a run."""
    return {
        "mtard_tf": __version__,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        **{name: value for name, (value, _) in keras_environment.settings().items()},
        "machine": platform.machine(),
        "folder": os.getcwd(),
        "cores": os.cpu_count(),
        "process": {"cores": cores(), "threads": threads()},
        "bfloat16": "native" if native_bfloat16() else "not native",
        "devices": [device.name for device in tf.config.list_logical_devices()],
    }


def note_data(folder: pathlib.Path, data: ImageData) -> dict:
    """Writes what an export needs of the data into a stage's folder; returns the rest of it.

    The former are the first 32 validation images (`probe_images.npy`), on which an exported model
    is held against the student; the latter goes into `stage.json`.
    """
    with files.replacing(folder / PROBE_IMAGES) as temporary:
        np.save(temporary, data.validation.images[:32])
    return {
        "name": data.name,
        "label_names": list(data.label_names),
        "image_shape": list(data.image_shape),
    }


def noted_data(run_dir: pathlib.Path, stage: str) -> tuple[dict, np.ndarray]:
    """What `note_data` returned and wrote for a finished stage.

    Raises:
      RunError: the stage is not finished, or its images are gone.
    """
    noted, images = run_dir / stage / "stage.json", run_dir / stage / PROBE_IMAGES
    if not noted.exists():
        raise RunError(f"{noted} is missing; run the stage {stage!r} first.")
    try:
        data, probes = run_files.stage(noted)["dataset"], np.load(images, allow_pickle=False)
        if not (data["name"] and data["label_names"]) or probes.shape[1:] != (
            *data["image_shape"],
        ):
            raise ValueError(f"images of {probes.shape[1:]}")
        return data, probes
    except (AttributeError, EOFError, KeyError, OSError, TypeError, ValueError) as error:
        raise RunError(
            f"{run_dir / stage} lacks what an export needs of the data "
            f"({' '.join(str(error).split())}); put {images} back, or remove the folder to train "
            "the stage anew."
        ) from error


def student_path(run_dir: pathlib.Path, source: str) -> pathlib.Path:
    """The file of a teacher: that of a stage of the run, or a path."""
    if is_path(source):
        return pathlib.Path(source).expanduser()
    return run_dir / source / "student.keras"


def existing(run_dir: pathlib.Path, source: str) -> pathlib.Path:
    """The file of a teacher.

    Raises:
      RunError: it is not there.
    """
    path = student_path(run_dir, source)
    if not path.exists():
        way = "put it there" if is_path(source) else f"run the stage {source!r} first"
        raise RunError(f"{path} is missing; {way}, or name another teacher.")
    return path


def load_student(run_dir: pathlib.Path, source: str) -> Any:
    """Loads a stage's student, or a model by path, as `model_files.load` does.

    Raises:
      RunError: the file is missing.
      ModelFileError: it is no model.
    """
    path = existing(run_dir, source)
    try:
        return model_files.load(path)
    except model_files.ModelFileError as error:
        if is_path(source):
            raise
        raise RunError(f"{error} Or remove {path.parent} to train the stage anew.") from error


def load_teacher(run_dir: pathlib.Path, source: str, data: ImageData) -> Any:
    """Loads a teacher; one that is named by its path must fit the data.

    Raises:
      RunError: the file is missing; or it takes other images, has other classes, or returns
        probabilities.
      ModelFileError: it is no model.
    """
    model = load_student(run_dir, source)
    if is_path(source):
        try:
            model_files.check(model, data.train, data.label_names)
        except EvaluationError as error:
            raise RunError(f"The teacher {source} does not fit. {error}") from error
    return model
