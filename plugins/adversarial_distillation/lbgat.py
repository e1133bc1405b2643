"""LBGAT: Learnable Boundary Guided Adversarial Training (Cui et al., ICCV 2021)."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.losses import kl_divergence
from mtard_tf.models.compatibility import check_fit
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.models.precision import (
    is_synchronized,
    synchronize_batch_norm,
    with_precision,
)


class LBGAT(Distiller):
    """A natural net G is trained beside the student, whose logits it guides; both learn from both.

        loss = mean_c (S(x')_c - G(x)_c)^2 + CE(G(x), y) + beta KL(S(x) || S(x'))
        x' = PGD-10 on KL(S(x) || S(x')), S in inference mode, from x + 0.001 N(0, 1)

    The squared error is between raw logits. G starts untrained, is in training mode, and gets the
    gradient of the squared error as well: one optimizer moves both nets. It is part of checkpoints,
    and not of what is saved of a finished stage.

    Departures of the official code from this: none in the loss. Its step is 0.007 at epsilon 0.031,
    the default here as a ratio, and its first epoch has a fifth of the learning rate
    (`schedules.Warmup` comes near).

    Args:
      beta: weight of the TRADES term; the official runs have 0 and 6.
      guide: makes G from (image shape, number of classes), such as `@models.resnet18`; None for the
        student's architecture with weights of its own. Its BatchNorm takes statistics over all
        replicas if the student's does.
      attack: default PGD-10 from 0.001 Gaussian noise.

    Source: arXiv 2011.11164; `dvlab-research/LBGAT:lbgat.py:16-79`,
    `train_lbgat_cifar100.py:151-183`.
    """

    student_views = ("adversarial", "clean")

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        beta: float = 6.0,
        guide: Callable[..., keras.Model] | None = None,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
        label_smoothing: float = 0.0,
    ) -> None:
        attack = attack or default_attack("gaussian", relative_step_size=0.007 / 0.031)
        super().__init__(student, teachers, context, attack, attack_batch_norm, label_smoothing)
        self.beta = beta
        if guide is None:
            self.guide = keras.models.clone_model(student)
        else:
            net = guide(student.input_shape[1:], student.output_shape[-1])
            if is_synchronized(student):
                synchronize_batch_norm(net)
            self.guide = with_precision(net, student.layers[-1].dtype_policy.name)
        check_fit(type(self).__name__, student, {"guide": self.guide}, ["guide"])
        self._guide_training = FusedTraining(self.guide)

    @property
    def trained_models(self) -> tuple[keras.Model, ...]:
        return (self.student, self.guide)

    @property
    def twins(self) -> list[FusedTraining | FoldedInference]:
        return [*super().twins, self._guide_training]

    def run_student(self, views: Tensors, weights: list | None = None) -> dict[str, tf.Tensor]:
        guide = tf.cast(self._guide_training(views["clean"]), tf.float32)
        return super().run_student(views, weights) | {"guide": guide}

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        clean = tf.stop_gradient(self.attacked_fn()(images))
        return self.attack_divergence(images, labels, seeds, clean)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        error = tf.math.squared_difference(student["adversarial"], student["guide"])
        return {
            "logit_error": tf.reduce_mean(error, axis=1),
            "guide_cross_entropy": self.cross_entropy(student["guide"], labels),
            "kl": kl_divergence(student["clean"], student["adversarial"]),
        }

    @property
    def term_weights(self) -> dict[str, float]:
        return {"kl": self.beta}
