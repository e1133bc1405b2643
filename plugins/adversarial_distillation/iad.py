"""IAD-I: Introspective Adversarial Distillation (Zhu et al., ICLR 2022, arXiv 2106.04928)."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.losses import cross_entropy, kl_divergence


class IAD(Distiller):
    """Where the teacher fails on the adversarial image, the student trusts itself.

        loss = alpha t^2 KL(softmax(T(x) / t) || softmax(S(x') / t))
             + alpha (1 - trust) KL(S(x) || S(x')) + (1 - alpha) CE(S(x), y)
        trust = p_T(y given x')^beta per image; the second term is off before epoch `begin`
        x' = PGD-10 on CE(S(x'), y) from a uniform start

    KLs are summed over classes, as in the official code. The gradient flows through both sides of
    the second one; the code does not detach its target.

    Departures of the official code from this, with `official_quirks`: the attack runs with
    BatchNorm in training mode, so its ten passes move the running statistics. What weighs the
    teacher's term is `weigh_teacher`, not the quirks: the code of IAD-I leaves it at weight 1, the
    default here, and that of IAD-II weighs it by `trust`. From `begin` on the code passes the clean
    batch through the student twice, here once: the same loss and gradient; BatchNorm's statistics
    move once less. Its start and its learning rate are those of `ard`.

    Args:
      alpha: weight of the two distillation terms.
      beta: exponent of the trust; 0 trusts the teacher alone.
      temperature: t, of teacher and student in the first term.
      begin: epoch, from 0, from which on the student trusts itself.
      weigh_teacher: the trust weighs the first term from `begin` on.
      attack: default PGD-10, step epsilon / 4, uniform start.
      official_quirks: what the code does.

    Source: `ZFancy/IAD:IAD-I.py:26-185`.
    """

    student_views = ("adversarial", "clean")
    # What the teacher teaches on, and what its trust is taken from.
    teacher_views: Mapping[str, str | tuple[str, ...]] = {"robust": ("clean", "adversarial")}
    taught_on = "robust_clean"
    official_batch_norm = "training"

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        alpha: float = 1.0,
        beta: float = 0.1,
        temperature: float = 1.0,
        begin: float = 60.0,
        weigh_teacher: bool = False,
        attack: Attack | None = None,
        attack_batch_norm: str | None = None,
        label_smoothing: float = 0.0,
        official_quirks: bool = False,
    ) -> None:
        attack = attack or default_attack("uniform")
        official = self.official_batch_norm if official_quirks else "inference"
        mode = attack_batch_norm or official
        super().__init__(student, teachers, context, attack, mode, label_smoothing)
        self.check_smoothing(1 - alpha, "alpha = 1")
        self.alpha = alpha
        self.beta = beta
        self.set_temperature(temperature)
        self.begin = begin
        self.weigh_teacher = weigh_teacher

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        doubt = distrust(self, labels, teachers["robust_adversarial"])
        divergence = self.temperature**2 * kl_divergence(
            teachers[self.taught_on],
            student["adversarial"],
            teacher_temperature=self.temperature,
            student_temperature=self.temperature,
        )
        terms = {
            "kl_robust": divergence * (1 - doubt) if self.weigh_teacher else divergence,
            "kl_self": doubt * kl_divergence(student["clean"], student["adversarial"]),
        }
        if self.alpha != 1:
            terms["cross_entropy"] = self.cross_entropy(student["clean"], labels)
        return terms

    @property
    def term_weights(self) -> dict[str, float]:
        return {"kl_robust": self.alpha, "kl_self": self.alpha, "cross_entropy": 1 - self.alpha}


def distrust(distiller: Distiller, labels: tf.Tensor, teacher_logits: tf.Tensor) -> tf.Tensor:
    """1 - p_T(y)^beta from epoch `begin` on, 0 before.

    Args:
      distiller: with `beta`, `begin` and its epoch.
      labels: class ids, `[batch]`.
      teacher_logits: on the adversarial images, `[batch, classes]`.

    Returns:
      `[batch]`, between 0 and 1.
    """
    trust = tf.exp(-distiller.beta * cross_entropy(teacher_logits, labels))
    # By epochs that are over, as the official code counts.
    return tf.where(tf.floor(distiller.epoch) >= distiller.begin, 1 - trust, 0.0)
