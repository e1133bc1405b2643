"""The base of a deployed model: called like a Keras model, computed outside of TensorFlow."""

from __future__ import annotations

import abc
import importlib.metadata
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mtard_tf.models.model_files import EvaluationError, ModelFileError

_LEAST = 1e-12  # a probability that was rounded to 0


class Artefact(abc.ABC):
    """A deployed model: a file for another runtime, or a server. No gradient passes through it.

    Attributes:
      name: what reports call it.
      kind: of what sort it is, in words, such as "a LiteRT file, int8".
      input_shape: (None, height, width, channels); None where it takes any.
      output_shape: (None, classes).
      variables: what its fingerprint is made of.
      trainable_variables: its constants, for the number of parameters.
      from_probabilities: it answers probabilities; their logarithms are logits.
      failure: why it did not answer, which TensorFlow would wrap into pages; None while it does.
    """

    name: str
    kind: str
    input_shape: tuple[int | None, ...]
    output_shape: tuple[int | None, ...]

    def __init__(self) -> None:
        self.variables: list[Any] = []
        self.trainable_variables: list[np.ndarray] = []
        self.from_probabilities = False
        self.failure: EvaluationError | None = None
        self._lock = threading.Lock()  # an audit asks from several threads

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits float32 `[batch, classes]` of float32 images in [0, 1], in a graph or outside."""
        images = tf.convert_to_tensor(images, tf.float32)
        logits = tf.numpy_function(self._told, [images], tf.float32)
        return tf.ensure_shape(logits, (images.shape[0], self.output_shape[-1]))

    def straight_through(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """A copy with gradients: images -> logits.

        Raises:
          ModelFileError: there is none, and why, as a clause.
        """
        raise ModelFileError(f"of {self.kind} no copy with gradients can be read")

    @abc.abstractmethod
    def answer(self, images: np.ndarray) -> np.ndarray:
        """Logits (or probabilities) `[batch, classes]` of at least one image, float32 in [0, 1].

        Raises:
          EvaluationError: it did not answer, or not with that.
        """

    def _told(self, images: np.ndarray) -> np.ndarray:
        """`answer`, of an empty batch as well; keeps a failure."""
        if not len(images):
            return np.zeros((0, self.output_shape[-1] or 0), np.float32)
        try:
            with self._lock:
                logits = np.asarray(self.answer(np.asarray(images)), np.float32)
            if logits.shape != (len(images), self.output_shape[-1]):
                raise EvaluationError(
                    f"{self.name} answered {len(images)} images with an array of {logits.shape}; "
                    f"expected ({len(images)}, {self.output_shape[-1]})."
                )
        except EvaluationError as error:
            self.failure = error
            raise
        return np.log(np.maximum(logits, _LEAST)) if self.from_probabilities else logits


def too_new(path: pathlib.Path, distribution: str, reason: str) -> ModelFileError:
    """The error for a file of a later version than its runtime knows."""
    return ModelFileError(
        f"{path} needs a newer {distribution} than {importlib.metadata.version(distribution)} "
        f"({reason}); pip install --upgrade {distribution}."
    )


def to_levels(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1] as uint8 levels, rounded to the nearest: what a client sends."""
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
