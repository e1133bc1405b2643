"""DGAD: Dynamic Guidance Adversarial Distillation (ECCV 2024, arXiv 2409.01627)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.losses import kl_divergence
from mtard_tf.plugins.adversarial_distillation.adaad import adaptive_attack


class DGAD(Distiller):
    """An image is taught clean where the teacher errs on it, else adversarial; errors are swapped.

        loss = m KL(T~(x) || S(x)) + (1 - m) KL(T~(x') || S(x')) + beta mean_c (p_S(x') - p_S(x))^2
        m = 1 where argmax T(x) is not y, else 0
        x' = PGD-10 on KL(T(x') || S(x')), both in inference mode, from x + 0.001 N(0, 1)

    T~ has the logits of the top class and of y exchanged where the top class is another: the
    teacher's confidence moves to y. Each term is a mean over the whole batch, the gradient of the
    last goes to both sides, and that through x' as in `adaad`.

    Left out of the official code: a weight of an epoch's short last batch that is too small for
    its adversarial part, and a bracket of its MobileNetV2 script by which the clean loss multiplies
    the adversarial one.

    Args:
      beta: weight of the consistency; the code's default, 1.
      attack: default PGD-10, step epsilon / 4, Gaussian start.

    Source: `kunsaram01/DGAD:main.py:390-447`, `AT_helper.py:8-48`.
    """

    student_views = ("clean", "adversarial")
    teacher_views = {"robust": ("clean", "adversarial")}

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        beta: float = 1.0,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
    ) -> None:
        super().__init__(student, teachers, context, attack or default_attack(), attack_batch_norm)
        self.beta = beta

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        return adaptive_attack(self, images, labels, seeds)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        predicted = tf.argmax(teachers["robust_clean"], axis=1, output_type=labels.dtype)
        shares = {"clean": tf.cast(predicted != labels, tf.float32)}
        shares["adversarial"] = 1.0 - shares["clean"]
        terms = {
            f"kl_{view}": share
            * kl_divergence(swapped(teachers[f"robust_{view}"], labels), student[view])
            for view, share in shares.items()
        }
        p, p_adversarial = (tf.nn.softmax(student[view]) for view in self.student_views)
        error = tf.math.squared_difference(p_adversarial, p)
        return {**terms, "consistency": tf.reduce_mean(error, axis=1)}

    @property
    def term_weights(self) -> dict[str, float]:
        return {"consistency": self.beta}


def swapped(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Logits with those of the top class and of the label exchanged; as they are where it is right.

    Args:
      logits: `[batch, classes]`.
      labels: class ids, `[batch]`.

    Returns:
      `[batch, classes]`.
    """
    classes, top = logits.shape[-1], tf.argmax(logits, axis=1)
    is_top, is_own = (tf.one_hot(i, classes, True, False, dtype=tf.bool) for i in (top, labels))
    largest = tf.reduce_max(logits, axis=1, keepdims=True)
    own = tf.gather(logits, labels, batch_dims=1)[:, tf.newaxis]
    return tf.where(is_own, largest, tf.where(is_top, own, logits))
