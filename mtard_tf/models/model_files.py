"""Loads models by path, `.keras` files and SavedModels, and checks that they fit the data."""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.data.batches import to_float
from mtard_tf.data.image_data import Split
from mtard_tf.files import digest, keras_digest, replacing
from mtard_tf.models.graph_ops import ModelFileError as ModelFileError
from mtard_tf.models.layers import OUTLIER_LAYER
from mtard_tf.models.saved_models import SavedModel


def load(given: Any) -> Any:
    """A model by path: a `.keras` file, a SavedModel folder, or the parent of numbered versions.

    A model in place of a path is returned unchanged.

    Raises:
      ModelFileError: no such file, not a model, or one that does more than compute (`graph_ops`
        for SavedModels; Keras refuses code in `.keras` files). Nothing was run.
    """
    if not isinstance(given, str | pathlib.Path):
        return given
    path = _resolved(pathlib.Path(given))
    try:
        if path.is_dir():
            return SavedModel(path)
        _check_archive(path)
        return keras.models.load_model(path, compile=False)
    except ModelFileError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelFileError(
            f"{path} cannot be read as a model ({reason}); give a .keras file or a SavedModel."
        ) from error


def _check_archive(path: pathlib.Path) -> None:
    """Raises ValueError for archives that Keras would report misleadingly."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not a complete zip archive, as .keras files are")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"its member {name[:80]!r} leaves the archive")


def _resolved(path: pathlib.Path) -> pathlib.Path:
    """The `.keras` file or SavedModel folder; of numbered versions, the newest."""
    if not path.exists():
        raise ModelFileError(f"There is no model at {path}; give a .keras file or a SavedModel.")
    if path.is_file() or (path / "saved_model.pb").exists():
        return path
    versions = [p.parent for p in path.glob("*/saved_model.pb") if p.parent.name.isdecimal()]
    if not versions:
        raise ModelFileError(f"{path} is a folder without saved_model.pb; give a SavedModel.")
    return max(versions, key=lambda version: int(version.name))


def check(model: Any, split: Split, label_names: tuple[str, ...]) -> None:
    """Refuses a model that does not fit the data.

    Args:
      model: from float32 images in [0, 1] to logits.
      split: the images that it will be used on.
      label_names: one per class.

    Raises:
      EvaluationError: several inputs or outputs, another input shape or number of classes, labels
        outside its classes, or probabilities instead of logits.
    """
    check_shapes(model, split.images.shape[1:])
    classes = model.output_shape[-1]
    if split.labels.min() < 0 or split.labels.max() >= classes:
        raise EvaluationError(
            f"The labels run from {split.labels.min()} to {split.labels.max()} and {model.name} "
            f"has {classes} classes, 0 to {classes - 1}; use the data set that it was trained on."
        )
    check_classes(model, len(label_names))
    answer = model(to_float(split.images[:32]), training=False)
    if not tf.is_tensor(answer):
        raise EvaluationError(
            f"{model.name} returns a {type(answer).__name__}; give a functional model that returns "
            "one tensor of logits [batch, classes]."
        )
    check_logits(np.asarray(answer))


def check_shapes(model: Any, image_shape: tuple[int, ...]) -> None:
    """Raises EvaluationError unless the model maps a batch of such images to logits.

    Args:
      model: with `input_shape` and `output_shape`.
      image_shape: (height, width, channels).
    """
    taken, returned = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if not (isinstance(taken, tuple) and isinstance(returned, tuple) and len(returned) == 2):
        raise EvaluationError(
            f"{model.name} takes {taken} and returns {returned}; give a functional model from one "
            "batch of images to logits [batch, classes], or of another kind a SavedModel "
            "(model.export(FOLDER))."
        )
    if taken[0] is not None:
        raise EvaluationError(
            f"{model.name} takes batches of {taken[0]} images only; save it with a batch size of "
            "None, which takes any."
        )
    if returned[-1] is None:
        raise EvaluationError(
            f"{model.name} does not say how many classes it has; export it with logits of a known "
            "shape [batch, classes]."
        )
    wanted, given = tuple(taken[1:]), tuple(image_shape)
    if len(wanted) != 3 or any(w not in (None, g) for w, g in zip(wanted, given, strict=True)):
        way = "use the data set that it was trained on"
        if wanted == (given[-1], *given[:-1]):
            way = "give --channels_first to mtard-eval or mtard-import"
        raise EvaluationError(
            f"{model.name} takes images of {wanted} and the data set has {given}; {way}."
        )
    last = model.layers[-1] if isinstance(model, keras.Model) and model.layers else None
    if activation(last) == "sigmoid":
        raise EvaluationError(
            f"{model.name} ends in a sigmoid; attacks and distillation need raw logits: remove it, "
            "as --from_probabilities of mtard-eval and mtard-import does."
        )


def check_classes(model: Any, classes: int) -> None:
    """Raises EvaluationError unless the model has as many classes as the data."""
    logits = model.output_shape[-1]
    if (logits, classes) == (1, 2):
        raise EvaluationError(
            f"{model.name} has one output for two classes; give --from_probabilities, of "
            "mtard-eval or mtard-import, for two logits in its place."
        )
    if logits - _has_outlier_class(model) != classes:
        raise EvaluationError(
            f"{model.name} has {logits} classes and the data set {classes}; use the data set that "
            "it was trained on."
        )


def _has_outlier_class(model: Any) -> bool:
    """Whether the last logit is a class of outliers, which no label has."""
    if not isinstance(model, keras.Model):
        return False
    # A Sequential model has no `output_names`; its last layer is its output.
    return OUTLIER_LAYER in getattr(model, "output_names", (model.layers[-1].name,))


def check_logits(logits: np.ndarray) -> None:
    """Raises EvaluationError for probabilities: rows `[batch, classes]` in [0, 1] that sum to 1."""
    inside = (logits >= 0).all() and (logits <= 1).all()
    if inside and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        raise EvaluationError(
            "The model returns probabilities (every row lies in [0, 1] and adds up to 1); attacks "
            "and distillation need raw logits: remove the softmax from its last layer, as "
            "--from_probabilities of mtard-eval and mtard-import does."
        )


def activation(layer: Any) -> str:
    """The name of a layer's activation, "" without one."""
    return getattr(getattr(layer, "activation", None), "__name__", "")


def fingerprint(model: Any) -> str:
    """A digest of a model's weights and, for a Keras model, its structure."""
    described = structure(model) if isinstance(model, keras.Model) else ""
    # Not `variables`, which hold the seeds of Dropout: files do not keep them.
    weights = model.weights if isinstance(model, keras.Model) else model.variables
    return digest(described, *[np.asarray(variable) for variable in weights])


def structure(model: keras.Model) -> str:
    """A Keras model's configuration without the names of layers, also of those within layers."""
    text = model.to_json()
    # Default names are numbered per process.
    layers = [model, *model.layers]
    inner = [layer for layer in model._flatten_layers() if not any(layer is one for one in layers)]
    for place, layer in enumerate([*layers, *inner]):
        text = text.replace(f'"{layer.name}"', f'"{place}"')
    return text


def file_digest(path: pathlib.Path) -> str:
    """A digest of the net and weights in a `.keras` file or SavedModel, 16 hexadecimal digits.

    The date in a `.keras` file does not count, nor do files beside a SavedModel.

    Raises:
      ModelFileError: a folder without a SavedModel.
    """
    path = _resolved(path)
    if path.is_dir():
        parts = [path / "saved_model.pb", *sorted(path.glob("variables/*"))]
        parts += sorted(file for file in path.glob("assets/**/*") if file.is_file())
        return digest(*(part for file in parts for part in (file.name, file.read_bytes())))
    return keras_digest(path)


def parameters(model: Any) -> int:
    """Number of trainable parameters; of a model that is frozen as a whole, of all its weights."""
    variables = model.trainable_variables or getattr(model, "variables", ())
    return int(sum(np.prod(variable.shape) for variable in variables))


class EvaluationError(ValueError):
    """A model or result that cannot be evaluated. The message is one line."""


def save(model: keras.Model, path: pathlib.Path) -> None:
    """Writes a `.keras` file, whole or not at all."""
    with replacing(path) as temporary:
        model.save(temporary)
