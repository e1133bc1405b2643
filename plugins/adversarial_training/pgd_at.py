"""Adversarial training (Madry et al. 2018, arXiv 1706.06083)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack


class PGDAdversarialTraining(Distiller):
    """loss = CE(f(x'), y), x' = PGD-10 on cross-entropy from a uniform start.

    Departure of the official code from this, with `official_quirks`: the attack runs with BatchNorm
    on the batch's statistics; the running ones stay.

    Args:
      attack: default PGD-10, step epsilon / 4, uniform start.
      official_quirks: what the code does.

    Source: `MadryLab/cifar10_challenge:train.py:41-54`, `pgd_attack.py:43-61`.
    """

    student_views = ("adversarial",)

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        attack: Attack | None = None,
        attack_batch_norm: str | None = None,
        label_smoothing: float = 0.0,
        official_quirks: bool = False,
    ) -> None:
        attack = attack or default_attack("uniform")
        mode = attack_batch_norm or ("batch" if official_quirks else "inference")
        super().__init__(student, teachers, context, attack, mode, label_smoothing)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        return {"cross_entropy": self.cross_entropy(student["adversarial"], labels)}
