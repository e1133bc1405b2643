"""Natural training: cross-entropy on clean images."""

from __future__ import annotations

from mtard_tf.distiller.distiller import Distiller


class Natural(Distiller):
    """loss = CE(f(x) / T, y). Makes the clean teacher. No attack is run.

    Args:
      temperature: T, 1 except for the teacher of a defensive distillation.
    """

    def __init__(
        self,
        student,
        teachers=None,
        *,
        context=None,
        temperature: float = 1.0,
        label_smoothing: float = 0.0,
    ):
        super().__init__(student, teachers, context=context, label_smoothing=label_smoothing)
        self.set_temperature(temperature)

    def terms(self, labels, student, teachers):
        return {"cross_entropy": self.cross_entropy(student["clean"] / self.temperature, labels)}
