"""What a `.tflite` file holds: tensors with their scales and zero points, and operations."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from mtard_tf.models.model_files import ModelFileError

_TYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.BOOL: np.bool_,
}
_NAMES = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
_LEAST_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor: real = (integer - zero_point) * scale, where it is quantised.

    Attributes:
      shape: None where it depends on the batch.
      dtype: of its elements; None for kinds that no classifier needs.
      scale: float32, one or one for each place along `axis`; empty for real numbers.
      zero_point: int64, as many.
      axis: along which the scales run.
      value: of a constant; else None.
    """

    shape: tuple[int | None, ...]
    dtype: Any
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int
    value: np.ndarray | None

    @property
    def quantised(self) -> bool:
        """Whether its elements are integers that stand for real numbers."""
        return bool(self.scale.size) and np.issubdtype(self.dtype, np.integer)

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest integer."""
        return float(np.iinfo(self.dtype).min), float(np.iinfo(self.dtype).max)

    def to_integers(self, reals: np.ndarray) -> np.ndarray:
        """Real numbers as the tensor holds them."""
        if not self.quantised:
            return reals.astype(self.dtype)
        # Divided in float32, as the interpreter's own kernel does.
        integers = np.rint(reals / self.scale[0]) + self.zero_point[0]
        return np.clip(integers, *self.limits).astype(self.dtype)

    def to_reals(self, held: np.ndarray) -> np.ndarray:
        """What the tensor holds as real numbers, float32."""
        if not self.quantised:
            return held.astype(np.float32)
        return (held.astype(np.float32) - self.zero_point[0]) * self.scale[0]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
      name: as the schema calls it, "CONV_2D".
      inputs: indices of tensors; -1 for one that is left out.
      output: index of its first output.
      options: the schema's own object, or None.
    """

    name: str
    inputs: tuple[int, ...]
    output: int
    options: Any


@dataclasses.dataclass(frozen=True)
class File:
    """A file's main graph.

    Attributes:
      tensors: all of them.
      operations: in the order of execution.
      inputs: indices.
      outputs: indices.
    """

    tensors: list[Tensor]
    operations: list[Operation]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def precision(self) -> str:
        """What it computes in: "int8", "float16" (weights), "dynamic range" or "float32"."""
        constants = [t for t in self.tensors if t.value is not None and t.value.size > 1]
        activations = [self.tensors[op.output] for op in self.operations]
        if any(t.quantised for t in activations):
            return "int8"
        if any(t.dtype == np.float16 for t in constants):
            return "float16"
        return "dynamic range" if any(t.quantised for t in constants) else "float32"

    def ends(self, path: pathlib.Path) -> tuple[Tensor, Tensor]:
        """The only input and the only output.

        Raises:
          ModelFileError: several, or not images and logits.
        """
        taken = [self.tensors[i] for i in self.inputs]
        returned = [self.tensors[i] for i in self.outputs]
        said = f"it takes {_said(taken)} and returns {_said(returned)}"
        fits = len(taken) == len(returned) == 1 and (len(taken[0].shape), len(returned[0].shape))
        for tensor in (*taken, *returned):
            if not (tensor.dtype == np.float32 or tensor.quantised):
                fits = False
        if fits != (4, 2):
            raise ModelFileError(
                f"{path}: {said}; give a file from one batch of images, float32 or quantised, to "
                "one of logits [batch, classes]."
            )
        return taken[0], returned[0]

    def weights(self) -> list[np.ndarray]:
        """Its constants, but for shapes and single numbers."""
        values = [t.value for t in self.tensors if t.value is not None and t.value.size > 1]
        known = [t for t in self.tensors if t.value is not None and t.quantised]
        return [v for v in values if v.dtype.kind == "f" or any(v is t.value for t in known)]


def read(content: bytes, path: pathlib.Path) -> File:
    """Reads a file; nothing of it is run.

    Raises:
      ModelFileError: it is broken, or holds more than one graph.
    """
    if len(content) < _LEAST_BYTES or content[4:8] != b"TFL3":
        raise broken(path, "it does not begin as a .tflite file does")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
        graph = model.subgraphs[0]
        tensors = [_tensor(t, model.buffers[t.buffer].data) for t in graph.tensors]
        operations = [_operation(op, model.operatorCodes) for op in graph.operators]
        inputs, outputs = (tuple(map(int, ends)) for ends in (graph.inputs, graph.outputs))
        found = File(tensors, operations, inputs, outputs)
        found.ends(path)
    except ModelFileError:
        raise
    except Exception as error:  # a broken offset shows as any of them
        raise broken(path, f"{type(error).__name__} while reading it") from error
    return found


def broken(path: pathlib.Path, reason: str) -> ModelFileError:
    """The error for a file that is cut off or none of its kind."""
    return ModelFileError(
        f"{path} cannot be read as a LiteRT model ({reason}); is the file complete?"
    )


def _tensor(tensor: Any, data: Any) -> Tensor:
    dtype = _TYPES.get(tensor.type)
    signature = tensor.shapeSignature
    plain = [] if tensor.shape is None else tensor.shape
    shape = tuple(
        None if side == -1 else int(side) for side in (plain if signature is None else signature)
    )
    value: np.ndarray | None = None
    if data is not None and len(data) and dtype is not None:
        value = np.frombuffer(bytes(data), dtype).reshape([int(side) for side in plain])
    how = tensor.quantization
    scale = np.asarray(how.scale if how and how.scale is not None else [], np.float32)
    zero = np.asarray(how.zeroPoint if how and how.zeroPoint is not None else [], np.int64)
    if zero.size != scale.size:
        zero = np.zeros(scale.size, np.int64)
    return Tensor(shape, dtype, scale, zero, how.quantizedDimension if how else 0, value)


def _operation(operation: Any, codes: Any) -> Operation:
    code = codes[operation.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    inputs = () if operation.inputs is None else tuple(map(int, operation.inputs))
    name = _NAMES.get(number, str(number))
    return Operation(name, inputs, int(operation.outputs[0]), operation.builtinOptions)


def _said(tensors: list[Tensor]) -> str:
    return ", ".join(f"{np.dtype(t.dtype).name} {list(t.shape)}" for t in tensors) or "nothing"
