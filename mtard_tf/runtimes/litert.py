"""LiteRT (TensorFlow Lite) files, computed by ai-edge-litert."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mtard_tf.models.model_files import EvaluationError, ModelFileError
from mtard_tf.runtimes import flatbuffer, straight_through
from mtard_tf.runtimes.artefact import Artefact, too_new

_SIZES = (64, 8)  # of batches: each has an interpreter of its own, as resizing one costs more
_INPUTS = {"uint8": np.uint8, "int8": np.int8, "float32": np.float32}


class LiteRT(Artefact):
    """A `.tflite` file.

    An integer input is quantised with the scale and zero point that the file states, rounded to the
    nearest; integer outputs are turned back into numbers with theirs.

    Args:
      path: of the file.

    Raises:
      ModelFileError: ai-edge-litert is not installed, the file is broken, or it does not take one
        batch of images and return one of logits.
    """

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.name, self._content = path.stem, path.read_bytes()
        self._file = flatbuffer.read(self._content, path)
        self._interpreter = _interpreters(self._content, path)
        self._prepared: dict[int, Any] = {}
        self.input, self.output = self._file.ends(path)
        self.kind = f"a LiteRT file, {self._file.precision}"
        self.input_shape, self.output_shape = self.input.shape, self.output.shape
        self._sizes = _SIZES if self.input_shape[0] is None else (int(self.input_shape[0]),)
        # Any number of images is taken, in batches of the file's own size.
        self.input_shape = (None, *self.input_shape[1:])
        self.variables = [np.frombuffer(self._content, np.uint8)]
        self.trainable_variables = self._file.weights()

    def answer(self, images: np.ndarray) -> np.ndarray:
        done = []
        while len(images):
            size = next((s for s in self._sizes if len(images) >= s), self._sizes[-1])
            part, images = images[:size], images[size:]
            rows = np.minimum(np.arange(size), len(part) - 1)
            done.append(self._batch(part[rows])[: len(part)])
        return np.concatenate(done)

    def straight_through(self) -> Callable[[tf.Tensor], tf.Tensor]:
        return straight_through.copy(self._file, self.input, self.output)

    def _batch(self, images: np.ndarray) -> np.ndarray:
        if len(images) not in self._prepared:
            self._prepared[len(images)] = self._allocated(images.shape)
        interpreter = self._prepared[len(images)]
        (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
        try:
            interpreter.set_tensor(given["index"], self.input.to_integers(images))
            interpreter.invoke()
            return self.output.to_reals(interpreter.get_tensor(returned["index"]))
        except (RuntimeError, ValueError) as error:
            raise EvaluationError(f"{self.name} did not compute: {_line(error)}.") from error

    def _allocated(self, shape: tuple[int, ...]) -> Any:
        try:
            interpreter = self._interpreter()
            interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], shape)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise EvaluationError(f"{self.name} takes no {shape}: {_line(error)}.") from error
        return interpreter


def _interpreters(content: bytes, path: pathlib.Path) -> Callable[[], Any]:
    """Makes interpreters of a file; one is made at once, so that a broken file is told."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ModelFileError(
            f"{path} needs LiteRT's runtime, which is not installed ({_line(error)}); "
            "pip install 'mtard_tf[deploy]'."
        ) from error
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None

    def make() -> Any:
        return Interpreter(model_content=content, num_threads=threads)

    try:
        make()
    except (RuntimeError, ValueError) as error:
        if "for builtin opcode" in str(error):
            raise too_new(path, "ai-edge-litert", _line(error)) from error
        raise flatbuffer.broken(path, _line(error)) from error
    return make


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
