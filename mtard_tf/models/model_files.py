"""Models by path, `.keras` files and SavedModels alike, and whether they fit what they are for."""

from __future__ import annotations

import pathlib
import zipfile
import zlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import files
from mtard_tf.data.batches import to_float
from mtard_tf.data.image_data import Split
from mtard_tf.files import digest
from mtard_tf.models import graph_ops
from mtard_tf.models.layers import OUTLIER_LAYER

# mtard-export writes it for audits; other exporters name their only signature so.
SIGNATURES = ("logits", "serving_default")
# What makes a `.keras` file the net that it is; its date and strange members do not count.
_MEMBERS = ("config.json", "model.weights.", "assets/")


class ModelFileError(ValueError):
    """A file that holds no model that can be attacked. The message is one line."""


class SavedModel:
    """A SavedModel that is called like a Keras model, and has gradients.

    Args:
      folder: with `saved_model.pb`; a signature in it must take float32 images in [0, 1],
        `[batch, height, width, channels]`, and return logits.

    Raises:
      ModelFileError: no such signature.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.name = folder.name if not folder.name.isdecimal() else folder.parent.name
        with files.literal(folder) as place:
            self._loaded = tf.saved_model.load(str(place))  # kept: it owns the variables
        self._function, self._input = self._signature(folder)
        self.input_shape = tuple(self._function.structured_input_signature[1][self._input].shape)
        outputs = self._function.structured_outputs
        self._output = "logits" if "logits" in outputs else next(iter(outputs))
        self.output_shape = tuple(outputs[self._output].shape)
        self.variables = list(self._function.variables)
        self.trainable_variables = list(self._function.trainable_variables)

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits of images; a SavedModel has no training mode."""
        return self._function(**{self._input: images})[self._output]

    def _signature(self, folder: pathlib.Path) -> tuple[Any, str]:
        for name in SIGNATURES:
            function = self._loaded.signatures.get(name)
            inputs = function.structured_input_signature[1] if function else {}
            if len(inputs) == 1:
                key, spec = next(iter(inputs.items()))
                if spec.dtype == tf.float32 and spec.shape.rank == 4:
                    return function, key
        found = ", ".join(self._loaded.signatures) or "none"
        raise ModelFileError(
            f"{folder} has no signature 'logits' or 'serving_default' that takes float32 images "
            f"(signatures: {found}), and so no gradients; export it again with mtard-export, or "
            "give the .keras file."
        )


def load(path: str | pathlib.Path) -> Any:
    """A model by path: a `.keras` file, a SavedModel folder, or the parent of numbered versions.

    Raises:
      ModelFileError: nothing there, nothing that can be read as a model, or one that does more
        than compute (see `graph_ops`; Keras refuses code in `.keras` files). Nothing was run.
    """
    path = _resolved(pathlib.Path(path))
    try:
        if path.is_dir():
            graph_ops.check(path)
            return SavedModel(path)
        _check_archive(path)
        return keras.models.load_model(path, compile=False)
    except ModelFileError:
        raise
    except graph_ops.GraphError as error:
        raise ModelFileError(str(error)) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelFileError(
            f"{path} cannot be read as a model ({reason}); give a .keras file or a SavedModel."
        ) from error


def _check_archive(path: pathlib.Path) -> None:
    """Refuses, with ValueError, what Keras has misleading words for."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no whole zip archive, as a .keras file is")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"its member {name[:80]!r} leaves the archive")


def _resolved(path: pathlib.Path) -> pathlib.Path:
    """The file or the SavedModel itself: of numbered versions, the newest."""
    if not path.exists():
        raise ModelFileError(f"There is no model at {path}; give a .keras file or a SavedModel.")
    if path.is_file() or (path / "saved_model.pb").exists():
        return path
    versions = [p.parent for p in path.glob("*/saved_model.pb") if p.parent.name.isdecimal()]
    if not versions:
        raise ModelFileError(f"{path} is a folder without saved_model.pb; give a SavedModel.")
    return max(versions, key=lambda version: int(version.name))


def check(model: Any, split: Split, label_names: tuple[str, ...]) -> None:
    """Refuses a model that does not fit the data, before anything is attacked or taught.

    Args:
      model: from float32 images in [0, 1] to logits.
      split: what it will be used on.
      label_names: one per class.

    Raises:
      EvaluationError: several inputs or outputs, another input shape or number of classes, labels
        that it has no class for, or probabilities instead of logits.
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
    """Refuses, with EvaluationError, what is not from a batch of such images to logits.

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
        raise EvaluationError(
            f"{model.name} takes images of {wanted} and the data set has {given}; use the data set "
            "that it was trained on."
        )


def check_classes(model: Any, classes: int) -> None:
    """Refuses, with EvaluationError, logits of another number of classes than the data's."""
    logits = model.output_shape[-1]
    if logits - _has_outlier_class(model) != classes:
        raise EvaluationError(
            f"{model.name} has {logits} classes and the data set {classes}; use the data set that "
            "it was trained on."
        )


def _has_outlier_class(model: Any) -> bool:
    # Predicting it is never right.
    if not isinstance(model, keras.Model):
        return False
    # A Sequential model has no `output_names`; its last layer is its output.
    return OUTLIER_LAYER in getattr(model, "output_names", (model.layers[-1].name,))


def check_logits(logits: np.ndarray) -> None:
    """Refuses probabilities, `[batch, classes]`: rows in [0, 1] that add up to 1."""
    inside = (logits >= 0).all() and (logits <= 1).all()
    if inside and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        raise EvaluationError(
            "The model returns probabilities (every row lies in [0, 1] and adds up to 1); attacks "
            "and distillation need raw logits: remove the softmax from its last layer."
        )


def fingerprint(model: Any) -> str:
    """A digest of what a model computes: its weights, and its structure where it can tell it."""
    structure = ""
    if isinstance(model, keras.Model):
        structure = model.to_json()
        # What was given no name is numbered through the process.
        for place, layer in enumerate([model, *model.layers]):
            structure = structure.replace(f'"{layer.name}"', f'"{place}"')
    # Not `variables`: those hold the seeds of Dropout, which no file keeps.
    weights = model.weights if isinstance(model, keras.Model) else model.variables
    return digest(structure, *[np.asarray(variable) for variable in weights])


def file_digest(path: pathlib.Path) -> str:
    """A fingerprint of the net and weights in a `.keras` file or SavedModel, 16 hexadecimal digits.

    The date that Keras writes into the file does not count, nor what is told of a SavedModel beside
    it.

    Raises:
      ModelFileError: a folder that holds no SavedModel.
    """
    path = _resolved(path)
    if path.is_dir():
        parts = [path / "saved_model.pb", *sorted(path.glob("variables/*"))]
        parts += sorted(file for file in path.glob("assets/**/*") if file.is_file())
        return digest(*(part for file in parts for part in (file.name, file.read_bytes())))
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in sorted(archive.namelist()) if name.startswith(_MEMBERS)]
            return digest(*(archive.read(name) for name in names))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return digest(path.read_bytes())  # damaged: not the file that it was


def parameters(model: Any) -> int:
    """How many numbers the model learned."""
    return int(sum(np.prod(variable.shape) for variable in model.trainable_variables))


class EvaluationError(ValueError):
    """A result that must not be counted. The message is one line."""
