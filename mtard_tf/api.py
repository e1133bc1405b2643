"""Training, distilling, auditing and exporting from Python, on arrays and Keras models.

    data = mt.ImageData.from_arrays(x_train, y_train, x_test, y_test)
    net = mt.models.small_cnn(data.image_shape, data.num_classes)
    clean = mt.train("natural", net, data, epochs=8)
    robust = mt.train("trades", net, data, epsilon="8/255", epochs=8)
    teachers = {"clean": clean, "robust": robust}
    student = mt.distil("bmtard", net, data, teachers=teachers, epsilon="8/255", epochs=9)
    report = mt.audit(student, data, epsilon="8/255")
    mt.export(student, "export/student", data)

A facade: the commands call the same functions. It leaves seeds and gin's configuration alone.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras

from mtard_tf import files
from mtard_tf.auditing.audit import Audit
from mtard_tf.auditing.report import Report
from mtard_tf.auditing.suite import Suite
from mtard_tf.config import gin_files
from mtard_tf.data.image_data import ImageData
from mtard_tf.experiment import from_python
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.exporting import export as exporting
from mtard_tf.exporting.formats import Wanted
from mtard_tf.models import model_files
from mtard_tf.models.global_state import fresh_names, seeded
from mtard_tf.running import experiment_run
from mtard_tf.running.stage_sources import kept
from mtard_tf.runtimes import loading
from mtard_tf.threat import ThreatModel, radius

Path: TypeAlias = str | pathlib.Path
Teacher: TypeAlias = keras.Model | str | pathlib.Path


def train(
    method: str | Callable, net: keras.Model, data: ImageData, *, epochs: int, **settings: Any
) -> keras.Model:
    """Trains a net on labels alone: "natural", "pgd_at", "trades", "mart", ...; see `distil`."""
    return distil(method, net, data, teachers={}, epochs=epochs, **settings)


def distil(
    method: str | Callable,
    net: keras.Model,
    data: ImageData,
    *,
    teachers: Mapping[str, Teacher],
    epochs: int,
    epsilon: float | str = "8/255",
    norm: str = "linf",
    seed: int = 0,
    name: str | None = None,
    run_dir: Path | None = None,
    initial: Teacher | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **settings: Any,
) -> keras.Model:
    """Trains a net from teachers: "bmtard", "mtard", "rslad", "ard", ...

    Args:
      method: name of a distiller, or a subclass of `mtard_tf.Distiller`.
      net: from float32 images in [0, 1], `[batch, height, width, channels]`, to logits
        `[batch, classes]`. It is not changed: its architecture is trained from fresh weights.
      data: validation images choose the weights; the test split is not touched.
      teachers: role -> model, `.keras` file or SavedModel folder, which are not changed. The roles
        are the method's: "clean" and "robust" for "mtard" and "bmtard".
      epochs: passes over the training split.
      epsilon: radius of the attack, in [0, 1] pixel units, or text as "8/255".
      norm: "linf" or "l2".
      seed: of weights, order of the images, augmentation and attacks.
      name: of the stage; default the method's. Stages of another name draw other numbers.
      run_dir: keeps metrics and checkpoints: repeated, the call resumes where it was interrupted,
        or returns what was finished; another experiment is refused. None keeps nothing.
      initial: model or file with the weights to start from.
      callbacks: Keras' own; `fit` is called once for each epoch.
      **settings: fields of a stage (`batch_size`, `optimizer`, `learning_rate`, `averaging`, ...)
        and arguments of the method (`beta`, `temperature_rate`, ...), see docs/python.md.

    Returns:
      The trained net, in float32.

    Raises:
      ValueError: whatever a part refuses, before anything is trained.
    """
    from_python.check_teachers(method, teachers)
    with gin_files.apart(), seeded(seed), fresh_names(), files.kept_or_scratch(run_dir) as folder:
        sources = {role: kept(folder, role, model) for role, model in teachers.items()}
        start = None if initial is None else kept(folder, "initial", initial)
        stage = from_python.stage(name, method, net, sources, epochs, settings, start)
        experiment = Experiment(lambda: data, [stage], epsilon, norm, seed)
        experiment_run.run(experiment, folder, callbacks=callbacks, page=run_dir is not None)
        return model_files.load(folder / stage.name / "student.keras")


def audit(
    model: keras.Model | Path,
    data: ImageData,
    *,
    epsilon: float | str,
    norm: str = "linf",
    suite: str | Suite | None = None,
    skip: Sequence[str] = (),
    split: str = "test",
    examples: int | None = None,
    surrogate: Teacher | None = None,
    temperature: float = 1.0,
    batch_size: int = 250,
    seed: int = 0,
    out: Path | None = None,
) -> Report:
    """Attacks a model and says how robust it is.

    Args:
      model: from images to logits; or its file, also a `.tflite` or `.onnx`; or the address of a
        served one, http://HOST:PORT/v1/models/NAME.
      data: label names and the images.
      epsilon: radius, in [0, 1] pixel units, or text as "8/255".
      norm: "linf" or "l2".
      suite: "quick", "paper", ..., a `.gin` file, or a `Suite`; default "quick", or "artefact".
      skip: attacks of the suite to leave out.
      split: "test", "validation" or "train".
      examples: at most N images, the first ones; None for all.
      surrogate: model for transfer attacks; None leaves them out, or takes the float model beside
        a `.tflite` or `.onnx` file.
      temperature: at which the model was trained.
      batch_size: images at a time.
      seed: of the attacks.
      out: folder for `report.html`, `report.md`, `report.json`, figures and each image's outcome;
        an interrupted audit resumes there. None keeps nothing.

    Returns:
      The report as a dict, with `verdict`, `worst_case`, `clean` and a table for notebooks.
    """
    with gin_files.apart(), files.kept_or_scratch(out) as folder:
        threat = ThreatModel(norm, radius(epsilon, "epsilon", norm))
        chosen = gin_files.suite(suite or loading.default_suite(model)).without(skip)
        todo = Audit(data, chosen, threat, split, examples, batch_size, seed)
        net = loading.load(model, data.image_shape)
        surrogate = loading.surrogate(net, model, surrogate)
        return Report(todo.at_temperature(temperature)(net, net.name, folder, surrogate))


def export(
    model: keras.Model | Path,
    folder: Path,
    data: ImageData,
    formats: Sequence[str] = ("saved_model",),
    *,
    calibration: str = "clean",
    calibration_images: int = 300,
    min_agreement: float = 0.98,
    max_robust_drop: float | None = None,
    robust_examples: int = 200,
    calibrate: bool = False,
    coverage: float = 0.9,
    epsilon: float | str = "8/255",
    norm: str = "linf",
) -> pathlib.Path:
    """Writes a model as files for serving, `<folder>/<version>/`, and proves them.

    Args:
      model: from images to logits, or its file.
      folder: parent of the versions.
      data: label names, and validation images to hold the files against the model.
      formats: "saved_model", and with `pip install 'mtard_tf[deploy]'` "litert",
        "litert_float16", "litert_int8", "onnx".
      calibration: training images for the ranges of "litert_int8": "clean", or "mixed" (attacked).
      calibration_images: how many training images.
      min_agreement: share of 500 images on which a format that rounds must give the same label.
      max_robust_drop: share of images that the worst case of "litert_int8" may lose; None: any.
      robust_examples: validation images for it.
      calibrate: fits the temperature of its probabilities, see docs/serving.md.
      coverage: share of images that its threshold of confidence keeps.
      epsilon: radius of the attacks of the three, in [0, 1] pixel units, or text as "8/255".
      norm: of those attacks, "linf" or "l2".

    Returns:
      The folder of the new version.

    Raises:
      ExportError: see `exporting.export.export`; nothing is written.
    """
    wanted = Wanted(
        *(tuple(formats), calibration, calibration_images, min_agreement),
        *(max_robust_drop, robust_examples, calibrate, coverage),
    )
    names, probes = data.label_names, data.validation.images[: wanted.probes]
    given = model_files.load(model), names, pathlib.Path(folder), probes
    threat = ThreatModel(norm, radius(epsilon, "epsilon", norm))
    return exporting.export(*given, wanted=wanted, data=data, threat=threat)
