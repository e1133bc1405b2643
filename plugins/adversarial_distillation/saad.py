"""SAAD: images weighed by the robust teacher's uncertainty (TMLR 2026, arXiv 2512.10275)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.distiller.gradient import Weighed
from mtard_tf.distiller.gradient_matching import MIRRORED, TERM, mirrored
from mtard_tf.distribute.replicas import replica_bounds
from mtard_tf.losses import entropy, gradient_matching, kl_divergence


class SAAD(Distiller):
    """Images weigh by the teacher's uncertainty on them; the attack knows the teacher's slope.

        loss = w [KL(T(x') || S(x')) + alpha (epoch / epochs) KL(T(x') - T(x-) || S(x') - S(x-))]
             + beta (1 - n) KL(T(x) || S(x)),    x- = 2 x - x', not clipped
        w = 5 (H - min H),  n = w / (max w + 1e-8),  H the entropy of T(x'), bounds of the batch
        x' = PGD-10 on KL(t(x') || S(x')), both in inference mode, from x + 0.001 N(0, 1)
        t(x') = T(x), its entry y increased by slope <grad_x T_y(x), x' - x>

    The gradient with respect to x' flows through t too; slope 0 attacks as `rslad`. The least
    uncertain image of each batch has weight 0, and the others up to 5 log(classes): the effective
    learning rate differs between teachers. Minimum and maximum are those of the global batch.

    The published run averages the student: `Stage.averaging = @averaging.SWA()` from epoch 95 of
    200. With beta 0 its code passes the clean batch through the student for nothing but BatchNorm;
    so does `official_quirks`.

    Args:
      alpha: weight of the matched gradients at the end, see `GradientMatching`; 0 for none. 1 on
        CIFAR-10, 10 on CIFAR-100 and Tiny-ImageNet.
      beta: weight of the clean term.
      gamma: order of the entropy (Renyi); 1 is Shannon's.
      slope: "lambda" in the code.
      entropy_scale: 5 in the code.
      attack: default PGD-10, step epsilon / 4, Gaussian start.
      official_quirks: what the code does.

    Source: `HongsinLee/saad:saad.py:46-86`, `attacks.py:138-194`, `utils.py:26-53`.
    """

    student_views: tuple[str, ...] = ("adversarial", MIRRORED)
    teacher_views = {"robust": ("clean", "adversarial", MIRRORED)}

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        alpha: float = 1.0,
        beta: float = 0.0,
        gamma: float = 1.0,
        slope: float = 1.0,
        entropy_scale: float = 5.0,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
        official_quirks: bool = False,
    ) -> None:
        if not alpha:
            self.teacher_views = {"robust": ("clean", "adversarial")}
        last = ("clean",) if beta or official_quirks else ()
        self.student_views = ("adversarial", *([MIRRORED] if alpha else []), *last)
        super().__init__(student, teachers, context, attack or default_attack(), attack_batch_norm)
        self.alpha, self.beta, self.gamma = alpha, float(beta), gamma
        self.slope, self.entropy_scale = slope, entropy_scale

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        clean = teachers["robust_clean"]
        own = tf.one_hot(labels, clean.shape[-1])
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = tf.reduce_sum(self.teachers.fn("robust")(images) * own)
        slopes = self.slope * tape.gradient(logits, images)

        def objective(perturbed: tf.Tensor, logits: tf.Tensor, rows: slice) -> tf.Tensor:
            change = tf.reduce_sum(slopes[rows] * (perturbed - images[rows]), axis=[1, 2, 3])
            return kl_divergence(clean[rows] + own[rows] * change[:, tf.newaxis], logits)

        return self.run_attack(images, labels, seeds, objective)

    def further_views(self, views: Tensors) -> dict[str, tf.Tensor]:
        return {MIRRORED: mirrored(views)} if self.alpha else {}

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        plus, adversarial = teachers["robust_adversarial"], student["adversarial"]
        weight, relative = self.image_weights(plus)
        terms = {"kl_adversarial": weight * kl_divergence(plus, adversarial)}
        if self.alpha:
            minus = teachers[f"robust_{MIRRORED}"], student[MIRRORED]
            terms[TERM] = weight * gradient_matching(plus, minus[0], adversarial, minus[1])
        if self.beta:
            clean = kl_divergence(teachers["robust_clean"], student["clean"])
            terms["kl_clean"] = (1.0 - relative) * clean
        return terms

    def image_weights(self, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """w and n, `[batch]` each, of the teacher's logits on this replica's images."""
        uncertain = renyi_entropy(logits, self.gamma)
        least, greatest = replica_bounds(uncertain)
        weight = self.entropy_scale * (uncertain - least)
        return weight, weight / (self.entropy_scale * (greatest - least) + 1e-8)

    def weigh(self, means: Tensors, teachers: Tensors) -> Weighed:
        growth = self.alpha * self.context.growth(self.epoch)
        known = {"kl_adversarial": tf.ones([]), TERM: growth, "kl_clean": tf.constant(self.beta)}
        return {name: known[name] for name in means}, {}


def renyi_entropy(logits: tf.Tensor, order: float) -> tf.Tensor:
    """Renyi's entropy of softmax(logits), `[batch]` in nats; at order 1 Shannon's."""
    if abs(order - 1) < 1e-6:
        return entropy(logits)
    return tf.reduce_logsumexp(order * tf.nn.log_softmax(logits), axis=-1) / (1 - order)
