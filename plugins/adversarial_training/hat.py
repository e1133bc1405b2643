"""HAT: Helper-based Adversarial Training (Rade and Moosavi-Dezfooli, ICLR 2022)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Models, Tensors, TrainingContext, default_attack
from mtard_tf.losses import cross_entropy
from mtard_tf.plugins.adversarial_training.trades import Trades


class HAT(Trades):
    """TRADES, and beyond each adversarial image a helper with a clean net's label for it.

        loss = CE(f(x), y) + beta KL(f(x) || f(x')) + gamma CE(f(x + h (x' - x)), y')
        y' = argmax f_clean(x'),  x' as in TRADES with step epsilon / 4

    f_clean, naturally trained, is the teacher "clean"; its label, not its logits, is used. The
    helper is not clipped to the box, as in the official code.

    Args:
      beta: weight of the robust term.
      gamma: weight of the helper's term.
      extrapolation: h.
      attack: default PGD-10, step epsilon / 4, from 0.001 Gaussian noise.

    Source: `imrahulr/hat:core/utils/hat.py:14-82`, its README for 2.5, 0.5 and 2.
    """

    student_views = ("clean", "adversarial", "helper")
    teacher_views = {"clean": "adversarial"}

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        beta: float = 2.5,
        gamma: float = 0.5,
        extrapolation: float = 2.0,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            student,
            teachers,
            context=context,
            beta=beta,
            attack=attack or default_attack(),
            attack_batch_norm=attack_batch_norm,
            label_smoothing=label_smoothing,
        )
        self.gamma = gamma
        self.extrapolation = extrapolation

    def further_views(self, views: Tensors) -> dict[str, tf.Tensor]:
        beyond = self.extrapolation * (views["adversarial"] - views["clean"])
        return {"helper": views["clean"] + beyond}

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        helper_labels = tf.argmax(teachers["clean"], axis=1)
        helper = cross_entropy(student["helper"], helper_labels)
        return {**super().terms(labels, student, teachers), "helper": helper}

    @property
    def term_weights(self) -> dict[str, float]:
        return {**super().term_weights, "helper": self.gamma}
