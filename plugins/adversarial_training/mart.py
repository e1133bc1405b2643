"""MART: Misclassification Aware adveRsarial Training (Wang et al., ICLR 2020)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.losses import cross_entropy, kl_divergence


class MART(Distiller):
    """Images that the net gets wrong even when clean weigh more in the robust term.

        loss = CE(f(x'), y) - log(1.0001 - max_{c != y} p_c(x'))
             + beta KL(f(x) || f(x')) (1 - p_y(x))
        x' = PGD-10 on CE(f(x'), y), f in inference mode, from x + 0.001 N(0, 1)

    The gradient flows through both sides of the KL and through 1 - p_y. The official code adds 1e-7
    to the last factor, and 1e-12 inside logarithms, which here are log-softmax; its step is 0.007
    at epsilon 0.031, the default here as a ratio.

    Args:
      beta: weight of the robust term; 5 in the official run of ResNet-18.
      attack: default PGD-10 from 0.001 Gaussian noise.

    Source: `YisenWang/MART:mart.py`, `train_resnet.py`.
    """

    student_views = ("clean", "adversarial")

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        beta: float = 5.0,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
        label_smoothing: float = 0.0,
    ) -> None:
        attack = attack or default_attack("gaussian", relative_step_size=0.007 / 0.031)
        super().__init__(student, teachers, context, attack, attack_batch_norm, label_smoothing)
        self.beta = beta

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        clean, adversarial = student["clean"], student["adversarial"]
        own = tf.one_hot(labels, adversarial.shape[-1])
        largest_wrong = tf.reduce_max(tf.nn.softmax(adversarial) * (1 - own), axis=1)
        own_clean = tf.exp(-cross_entropy(clean, labels))
        return {
            "cross_entropy": self.cross_entropy(adversarial, labels),
            "margin": -tf.math.log(1.0001 - largest_wrong),
            "kl": kl_divergence(clean, adversarial) * (1.0000001 - own_clean),
        }

    @property
    def term_weights(self) -> dict[str, float]:
        return {"kl": self.beta}
