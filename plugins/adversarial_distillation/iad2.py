"""IAD-II: Introspective Adversarial Distillation of two teachers (Zhu et al., ICLR 2022)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.losses import kl_divergence
from mtard_tf.plugins.adversarial_distillation.iad import distrust


class IAD2(Distiller):
    """Labels, a robust teacher as far as it can be trusted, the student itself, a clean teacher.

        loss = (1 - a - b) CE(S(x'), y)
             + a t^2 [trust KL(T_robust(x') / t || S(x') / t) + (1 - trust) KL(S(x) || S(x'))]
             + b t^2 KL(T_clean(x') / t || S(x') / t)
        trust = p_T_robust(y given x')^beta per image, and 1 before epoch `begin`
        x' = PGD-10 on CE(S(x'), y) from a uniform start

    with KL of softmaxes, summed over classes, as in the official code. Both teachers see the
    adversarial image. The gradient flows through both sides of the KL of the student with itself.
    With `begin` beyond the last epoch this is AKD2.

    Departures of the official code from this, with `official_quirks`: the attack runs with
    BatchNorm in training mode, so its ten passes move the running statistics. Left out: before
    `begin` no clean batch passes through the student there; here it does, and moves BatchNorm's
    statistics.

    Args:
      robust_weight: a.
      clean_weight: b.
      beta: exponent of the trust.
      temperature: t, of teachers and student.
      begin: epoch, from 0, from which on the student trusts itself.
      attack: default PGD-10, step epsilon / 4, uniform start.
      official_quirks: what the code does.

    Source: `ZFancy/IAD:IAD-II.py:29-194`.
    """

    student_views = ("adversarial", "clean")
    teacher_views = {"robust": "adversarial", "clean": "adversarial"}

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        robust_weight: float = 0.5,
        clean_weight: float = 0.25,
        beta: float = 0.1,
        temperature: float = 1.0,
        begin: float = 40.0,
        attack: Attack | None = None,
        attack_batch_norm: str | None = None,
        label_smoothing: float = 0.0,
        official_quirks: bool = False,
    ) -> None:
        attack = attack or default_attack("uniform")
        mode = attack_batch_norm or ("training" if official_quirks else "inference")
        super().__init__(student, teachers, context, attack, mode, label_smoothing)
        self.check_smoothing(1 - robust_weight - clean_weight, "robust_weight + clean_weight = 1")
        self.robust_weight = robust_weight
        self.clean_weight = clean_weight
        self.beta = beta
        self.set_temperature(temperature)
        self.begin = begin

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        t = self.temperature
        doubt = distrust(self, labels, teachers["robust"])
        divergences = {
            role: t**2
            * kl_divergence(
                logits, student["adversarial"], teacher_temperature=t, student_temperature=t
            )
            for role, logits in teachers.items()
        }
        own = kl_divergence(student["clean"], student["adversarial"])
        return {
            "cross_entropy": self.cross_entropy(student["adversarial"], labels),
            "kl_robust": (1 - doubt) * divergences["robust"],
            "kl_self": doubt * t**2 * own,
            "kl_clean": divergences["clean"],
        }

    @property
    def term_weights(self) -> dict[str, float]:
        return {
            "cross_entropy": 1 - self.robust_weight - self.clean_weight,
            "kl_robust": self.robust_weight,
            "kl_self": self.robust_weight,
            "kl_clean": self.clean_weight,
        }
