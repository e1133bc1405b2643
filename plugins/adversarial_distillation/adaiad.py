"""AdaIAD: AdaAD's attack with IAD-I's loss (Huang et al., CVPR 2023)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Models, Tensors, TrainingContext, default_attack
from mtard_tf.plugins.adversarial_distillation.adaad import adaptive_attack
from mtard_tf.plugins.adversarial_distillation.iad import IAD


class AdaIAD(IAD):
    """IAD-I whose teacher teaches on the adversarial image, and is attacked with the student.

        loss = alpha t^2 KL(softmax(T(x') / t) || softmax(S(x') / t))
             + alpha (1 - trust) KL(S(x) || S(x')) + (1 - alpha) CE(S(x), y)
        x' = PGD-10 on KL(T(x') || S(x')), both in inference mode, from x + 0.001 N(0, 1)

    with `trust` as in `iad`. The official code attacks in inference mode, so `official_quirks`
    changes nothing here. The code passes the clean batch through the student once more than here,
    and twice more from `begin` on: the same loss and gradient; BatchNorm's statistics move less.

    Args:
      temperature: t; the code's default, 30.
      attack: default PGD-10, step epsilon / 4, Gaussian start.

    Source: `boyellow/AdaAD:main.py:355-381`, `AT_helper.py:8-48`.
    """

    student_views = ("clean", "adversarial")
    teacher_views = {"robust": ("adversarial",)}
    taught_on = "robust_adversarial"
    official_batch_norm = "inference"

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        alpha: float = 1.0,
        beta: float = 0.1,
        temperature: float = 30.0,
        begin: float = 60.0,
        weigh_teacher: bool = False,
        attack: Attack | None = None,
        attack_batch_norm: str | None = None,
        label_smoothing: float = 0.0,
        official_quirks: bool = False,
    ) -> None:
        super().__init__(
            student,
            teachers,
            context=context,
            alpha=alpha,
            beta=beta,
            temperature=temperature,
            begin=begin,
            weigh_teacher=weigh_teacher,
            attack=attack or default_attack(),
            attack_batch_norm=attack_batch_norm,
            label_smoothing=label_smoothing,
            official_quirks=official_quirks,
        )

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        return adaptive_attack(self, images, labels, seeds)
