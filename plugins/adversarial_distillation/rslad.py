"""RSLAD: Robust Soft Label Adversarial Distillation (Zi et al., ICCV 2021, arXiv 2108.07969)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.losses import kl_divergence


class RSLAD(Distiller):
    """The robust teacher's soft labels take the place of hard ones, in the attack as well.

        loss = (5/6 KL(T(x) || S(x')) + 1/6 KL(T(x) || S(x))) / 10
        x' = PGD-10 on KL(T(x) || S(x')), S in inference mode, from x + 0.001 N(0, 1)

    The official code takes the mean over batch *and* classes, and multiplies by 10 for 100 classes:
    the divergence / 10 in both, and here for any number of classes, as in `mtard`. It is no quirk
    to be undone: learning rate and weight decay were chosen at that scale. Left out: the logarithm
    of a softmax in the script for 100 classes, which gives -inf where log-softmax does not.

    Args:
      clean_weight: of the clean term; the adversarial one has the rest.
      log_offset: inside the logarithm of the KL's target; 1e-5 as the official code. It moves the
        loss and no gradient.
      attack: default PGD-10, step epsilon / 4, Gaussian start.

    Source: `zibojia/RSLAD:rslad_loss.py:26-59`, `resnet18_rslad_cifar10.py:38-65`,
    `resnet18_rslad_cifar100.py:39-66`.
    """

    needs_labels = False
    student_views = ("adversarial", "clean")
    teacher_views = {"robust": "clean"}

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        clean_weight: float = 1 / 6,
        log_offset: float = 1e-5,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
    ) -> None:
        super().__init__(student, teachers, context, attack or default_attack(), attack_batch_norm)
        self.clean_weight = clean_weight
        self.log_offset = log_offset

    def target(self, labels: tf.Tensor, teachers: Tensors, view: str) -> tf.Tensor:
        """The target's logits for the student on `view`, `[batch, classes]`."""
        return teachers["robust"]

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        target = self.target(labels, teachers, "adversarial")
        return self.attack_divergence(images, labels, seeds, target)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        return {
            f"kl_{view}": kl_divergence(
                self.target(labels, teachers, view), student[view], log_offset=self.log_offset
            )
            / 10.0
            for view in self.student_views
        }

    @property
    def term_weights(self) -> dict[str, float]:
        return {"kl_adversarial": 1 - self.clean_weight, "kl_clean": self.clean_weight}
