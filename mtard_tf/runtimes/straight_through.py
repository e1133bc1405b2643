"""A copy with gradients of a LiteRT file, from the integers and scales that it holds.

Quantised numbers are held as float32 with integer values, so that sums are those of the
interpreter as long as they stay below 2^24. Rounding and saturation let gradients through as they
are (Bengio et al., arXiv 1308.3432); activations such as ReLU keep theirs. A float file is read the
same way, and then nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mtard_tf.models.model_files import ModelFileError
from mtard_tf.runtimes.flatbuffer import File, Tensor
from mtard_tf.runtimes.node import Node, held, real
from mtard_tf.runtimes.operations import OPERATIONS

_SHAPES_ONLY = (np.int32, np.int64, np.bool_)


def copy(file: File, taken: Tensor, returned: Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """The copy: float32 images in [0, 1], `[batch, height, width, channels]` -> float32 logits.

    Raises:
      ModelFileError: an operation that is not known here; as a clause.
    """
    todo = [op for op in file.operations if file.tensors[op.output].dtype not in _SHAPES_ONLY]
    unknown = sorted({op.name for op in todo} - OPERATIONS.keys())
    if unknown:
        raise ModelFileError(f"no gradient is known here for {', '.join(unknown)}")

    def answer(images: tf.Tensor) -> tf.Tensor:
        values = {file.inputs[0]: held(images, taken)}
        for operation in todo:
            values[operation.output] = OPERATIONS[operation.name](Node(file, operation, values))
        return real(values[file.outputs[0]], returned)

    return answer
