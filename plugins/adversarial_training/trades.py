"""TRADES (Zhang et al. 2019, arXiv 1901.08573, equation 5)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.losses import kl_divergence


class Trades(Distiller):
    """loss = CE(f(x), y) + beta KL(f(x) || f(x')), x' maximising that KL.

    The gradient flows through both sides of the KL, and the attack's target is f(x) in inference
    mode (`yaodongyu/TRADES:trades.py:17-84`). The official step is 0.007 at epsilon 0.031. The code
    passes the clean batch through the net once for each term, here once in all: the same loss and
    gradient; BatchNorm's statistics move once less.

    Args:
      beta: weight of the robust term ("1/lambda" in the paper); 6 in the official run.
      attack: default PGD-10 from 0.001 Gaussian noise.
    """

    student_views = ("clean", "adversarial")

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        beta: float = 6.0,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
        label_smoothing: float = 0.0,
    ) -> None:
        attack = attack or default_attack("gaussian", relative_step_size=0.007 / 0.031)
        super().__init__(student, teachers, context, attack, attack_batch_norm, label_smoothing)
        self.beta = beta

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        clean = tf.stop_gradient(self.attacked_fn()(images))
        return self.attack_divergence(images, labels, seeds, clean)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        return {
            "cross_entropy": self.cross_entropy(student["clean"], labels),
            "kl": kl_divergence(student["clean"], student["adversarial"]),
        }

    @property
    def term_weights(self) -> dict[str, float]:
        return {"kl": self.beta}
