"""Adversarial training (Madry et al. 2018, arXiv 1706.06083)."""

from __future__ import annotations

from mtard_tf.distiller import Distiller, default_attack
from mtard_tf.label_smoothing import HardLabels


class PGDAdversarialTraining(HardLabels, Distiller):
    """loss = CE(f(x'), y), x' = PGD-10 on cross-entropy from a uniform start.

    The attack runs in inference mode; Madry's TensorFlow code leaves BatchNorm in training mode
    there.

    Args:
      attack: default PGD-10, step epsilon / 4, uniform start.
    """

    student_views = ("adversarial",)

    def __init__(self, student, teachers=None, *, attack=None, **kwargs):
        super().__init__(student, teachers, attack=attack or default_attack("uniform"), **kwargs)

    def terms(self, labels, student, teachers):
        return {"cross_entropy": self.cross_entropy(student["adversarial"], labels)}
