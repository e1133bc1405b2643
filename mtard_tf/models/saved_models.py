"""SavedModels called like Keras models."""

from __future__ import annotations

import pathlib
from typing import Any

import tensorflow as tf

from mtard_tf import files
from mtard_tf.models import graph_ops
from mtard_tf.models.graph_ops import ModelFileError

# Signatures to look for: that of mtard-export for audits, and the usual name of an only one.
SIGNATURES = ("logits", "serving_default")


class SavedModel:
    """A SavedModel that is called like a Keras model, and has gradients.

    Args:
      folder: with `saved_model.pb`; a signature in it must take float32 images in [0, 1],
        `[batch, height, width, channels]`, and return logits.

    Raises:
      ModelFileError: no such signature, or a graph that does more than compute; nothing was run.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.name = folder.name if not folder.name.isdecimal() else folder.parent.name
        graph_ops.check(folder)
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
