"""ONNX files, computed by ONNX Runtime."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np

from mtard_tf.models.model_files import EvaluationError, ModelFileError
from mtard_tf.runtimes.artefact import Artefact, to_levels, too_new

_FLOAT, _LEVELS = "tensor(float)", "tensor(uint8)"
_LEAST_BYTES = 16


class ONNXFile(Artefact):
    """An `.onnx` file with one input of images and logits among its outputs.

    Images are float32 in [0, 1], or uint8 levels, as the input's type says. Of several outputs the
    one called `logits` counts.

    Args:
      path: of the file.
      image_shape: (height, width, channels) of the images to come, for a file that does not say.

    Raises:
      ModelFileError: onnxruntime is not installed, the file is broken, or it takes and returns
        something else.
    """

    def __init__(self, path: pathlib.Path, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.name, self.kind = path.stem, "an ONNX file"
        content = path.read_bytes()
        self._session = _session(content, path)
        self._input, self._output = self._ends(path)
        sides = [side if isinstance(side, int) else None for side in self._input.shape]
        # Any number of images is taken, in batches of the file's own size.
        self._size, self.input_shape = sides[0], (None, *sides[1:])
        self.output_shape = (None, self._classes(path, image_shape))
        self.variables = [np.frombuffer(content, np.uint8)]
        self.trainable_variables = _weights(content)

    def answer(self, images: np.ndarray) -> np.ndarray:
        size = self._size or len(images)
        given = to_levels(images) if self._input.type == _LEVELS else images.astype(np.float32)
        done = []
        for at in range(0, len(given), size):
            rows = np.minimum(np.arange(at, at + size), len(given) - 1)
            done.append(self._batch(given[rows])[: len(given) - at])
        return np.concatenate(done)

    def _batch(self, given: np.ndarray) -> np.ndarray:
        try:
            return self._session.run([self._output.name], {self._input.name: given})[0]
        except Exception as error:  # onnxruntime's errors share no base of their own
            raise EvaluationError(f"{self.name} did not compute: {_line(error)}.") from error

    def _ends(self, path: pathlib.Path) -> tuple[Any, Any]:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        named = [output for output in outputs if output.name == "logits"] or outputs
        fits = len(inputs) == len(named) == 1 and inputs[0].type in (_FLOAT, _LEVELS)
        if not fits or len(inputs[0].shape) != 4 or named[0].type != _FLOAT:
            raise ModelFileError(
                f"{path}: it takes {_said(inputs)} and returns {_said(outputs)}; give a file "
                "from images [batch, height, width, channels], float32 or uint8, to `logits` "
                "[batch, classes]."
            )
        return inputs[0], named[0]

    def _classes(self, path: pathlib.Path, image_shape: tuple[int, ...]) -> int:
        """From the file, or from its answer to one black image where the file leaves it open."""
        if len(self._output.shape) == 2 and isinstance(self._output.shape[-1], int):
            return self._output.shape[-1]
        known = zip(self.input_shape[1:], image_shape, strict=True)
        black = np.zeros((1, *(side or given for side, given in known)), np.float32)
        try:
            answer = self.answer(black)
        except EvaluationError as error:
            raise ModelFileError(
                f"{path} says neither its number of classes nor its image size, and takes no "
                f"image of {image_shape}: {error}"
            ) from error
        if answer.ndim != 2:
            raise ModelFileError(
                f"{path} returns {answer.shape} for one image; give a file that returns logits "
                "[batch, classes]."
            )
        return answer.shape[1]


def _session(content: bytes, path: pathlib.Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelFileError(
            f"{path} needs ONNX Runtime, which is not installed ({_line(error)}); "
            "pip install 'mtard_tf[deploy]'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if len(content) < _LEAST_BYTES:
        raise _broken(path, "it is empty")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base of their own
        if re.search("IR version|opset", str(error)):
            raise too_new(path, "onnxruntime", _line(error)) from error
        raise _broken(path, _line(error)) from error


def _broken(path: pathlib.Path, reason: str) -> ModelFileError:
    return ModelFileError(
        f"{path} cannot be read as an ONNX model ({reason}); is the file complete?"
    )


def _weights(content: bytes) -> list[np.ndarray]:
    """The file's constants; none where `onnx`, which reads them, is not installed."""
    try:
        import onnx
    except ImportError:
        return []
    initial = onnx.load_from_string(content).graph.initializer
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in initial]
    return [array for array in arrays if array.dtype.kind == "f" and array.size > 1]


def _said(values: Any) -> str:
    return ", ".join(f"{v.name} {v.type} {list(v.shape)}" for v in values) or "nothing"


def _line(error: Exception) -> str:
    # Without the place in onnxruntime's own source, and the signature of the function there.
    text = re.sub(r"\S+\.(cc|h):\d+ [\w:~]+\(.*\) ", "", " ".join(str(error).split()))
    return text[:200] or type(error).__name__
