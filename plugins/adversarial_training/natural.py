"""Natural training: cross-entropy on clean images."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Distiller, Models, Tensors, TrainingContext


class Natural(Distiller):
    """loss = CE(f(x) / T, y). Makes the clean teacher. No attack is run.

    Args:
      temperature: T, 1 except for the teacher of a defensive distillation.
    """

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        temperature: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(student, teachers, context=context, label_smoothing=label_smoothing)
        self.set_temperature(temperature)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        return {"cross_entropy": self.cross_entropy(student["clean"] / self.temperature, labels)}
