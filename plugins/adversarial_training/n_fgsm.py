"""N-FGSM: fast adversarial training from wide noise (NeurIPS 2022, arXiv 2202.01181)."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks.pgd import FGSM, input_gradient, uniform_in_ball
from mtard_tf.distiller import Distiller, Models, Tensors, TrainingContext


class NFGSM(Distiller):
    """loss = CE(f(x'), y), x' one step from noise that is wider than the ball.

        u = clip(x + eta),  eta ~ U(-noise epsilon, noise epsilon)
        x' = clip(u + relative_step_size epsilon sign grad CE(f(u), y))

    clipped to the box only: x' may leave the ball, up to (noise + 1) epsilon. noise 0 is FGSM. Cost
    and failure are those of `fgsm_rs`. The authors train 30 epochs at a learning rate that rises to
    0.2 and falls (`schedules.Cyclic`), on SVHN to 0.05 at 2/5 of the epochs. Their momentum moves
    as that of `fgsm_rs`. With `official_quirks` BatchNorm is in training mode during the attack,
    whose pass moves the running statistics.

    Args:
      noise: k, in units of epsilon; 3 on SVHN at 12/255.
      relative_step_size: in units of epsilon.
      official_quirks: what the code does.

    Raises:
      ValueError: a threat model that is not Linf.

    Source: `pdejorge/N-FGSM:train.py:200-250`.
    """

    student_views = ("adversarial",)

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        noise: float = 2.0,
        relative_step_size: float = 1.0,
        attack_batch_norm: str | None = None,
        label_smoothing: float = 0.0,
        official_quirks: bool = False,
    ) -> None:
        mode = attack_batch_norm or ("training" if official_quirks else "inference")
        # `perturb` steps by itself: that of an InnerAttack would stay in the ball.
        super().__init__(student, teachers, context, FGSM(), mode, label_smoothing)
        self.noise, self.relative_step_size = noise, relative_step_size
        if self.context.threat.norm != "linf":
            raise ValueError(
                f"NFGSM steps by signs and the threat model is {self.context.threat.norm}; set "
                "Experiment.norm = 'linf', or train with @distillers.fgsm_rs."
            )

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        threat = self.context.threat_at(self.epoch)
        wide = dataclasses.replace(threat, epsilon=self.noise * threat.epsilon)
        start = wide.project(images + uniform_in_ball(seeds, images.shape[1:], wide), images)

        def objective(_: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
            return losses.cross_entropy(logits, labels)

        size = self.relative_step_size * self.context.step_size_schedule(self.epoch)
        gradient = tf.sign(input_gradient(self.attacked_fn(), start, objective))
        moved = start + size * threat.epsilon * gradient
        return tf.clip_by_value(moved, threat.minimum, threat.maximum)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        return {"cross_entropy": self.cross_entropy(student["adversarial"], labels)}
