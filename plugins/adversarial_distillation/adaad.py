"""AdaAD: Adaptive Adversarial Distillation (Huang et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.losses import kl_divergence


class AdaAD(Distiller):
    """The attack seeks where student and robust teacher differ most, through both of them.

        loss = alpha KL(T(x') || S(x')) + (1 - alpha) KL(T(x) || S(x))
        x' = PGD-10 on KL(T(x') || S(x')), both in inference mode, from x + 0.001 N(0, 1)

    The gradient with respect to x' flows through the teacher too.

    Departures of the official code from this, with `official_quirks`: for 10 classes its KL is the
    mean over batch *and* classes (a tenth); for 100 it is the sum over classes, as here. Its weight
    decay is 5e-4, and its README's epsilon is 8/255 where its default is 16/255. With alpha = 1 it
    runs the clean batch through student and teacher for nothing but BatchNorm; so does
    `official_quirks`, for the student.

    Args:
      alpha: weight of the adversarial term.
      attack: default PGD-10, step epsilon / 4, Gaussian start.
      official_quirks: what the code does.

    Source: `boyellow/AdaAD:AT_helper.py:8-48`, `main.py:326-353`.
    """

    needs_labels = False
    student_views: tuple[str, ...] = ("clean", "adversarial")
    teacher_views: Mapping[str, tuple[str, ...]] = {"robust": ("clean", "adversarial")}

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        alpha: float = 1.0,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
        official_quirks: bool = False,
    ) -> None:
        if alpha == 1:
            self.teacher_views = {"robust": ("adversarial",)}
            if not official_quirks:
                self.student_views = ("adversarial",)
        super().__init__(student, teachers, context, attack or default_attack(), attack_batch_norm)
        self.alpha = alpha
        self.kl_scale = 0.1 if official_quirks and student.output_shape[-1] == 10 else 1.0

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        return adaptive_attack(self, images, labels, seeds)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        return {
            f"kl_{view}": self.kl_scale * kl_divergence(teachers[f"robust_{view}"], student[view])
            for view in self.teacher_views["robust"]
        }

    @property
    def term_weights(self) -> dict[str, float]:
        return {"kl_adversarial": self.alpha, "kl_clean": 1 - self.alpha}


def adaptive_attack(
    distiller: Distiller, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor
) -> tf.Tensor:
    """`distiller`'s attack on KL(T(x') || S(x')), with T its teacher "robust"."""
    teacher = distiller.teachers.fn("robust")

    def objective(perturbed: tf.Tensor, logits: tf.Tensor, rows: slice) -> tf.Tensor:
        return kl_divergence(teacher(perturbed), logits)

    return distiller.run_attack(images, labels, seeds, objective)
