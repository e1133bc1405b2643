"""ADR: Annealing Self-Distillation Rectification (ICLR 2024, arXiv 2305.12118)."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.distiller.averaging import TeachingAverage
from mtard_tf.losses import kl_divergence
from mtard_tf.schedules import Cosine


class ADR(Distiller):
    """Labels rectified by the student's own average, in the attack and in the loss.

        P = softmax(A(x) / tau),  l = clip(lambda - (max P - P_y), 0, 1)
        q = l P + (1 - l) onehot(y)
        loss = CE(S(x'), q),  x' = PGD-10 on CE(S(x'), q) from a uniform start         (beta = 0)
        loss = CE(S(x), q) + beta KL(S(x) || S(x')),  x' = PGD-10 on that KL, as `trades`

    A is an average of the student's weights *and* of its BatchNorm statistics, in inference mode;
    it starts as the student, and after each update A <- decay A + (1 - decay) S. tau and lambda go
    from their first to their last value along half a cosine over the epochs of the training.

    Departures of the official code from this, with `official_quirks`: the student is in training
    mode during the attack, whose passes move the running statistics. The attack of its TRADES form
    starts at x + 0.001 U(0, 1), one-sided, where the default here is Gaussian. The rows "+WA" of
    its tables are A itself: `Stage.averaging = @averaging.EMA()` with the same decay.

    Args:
      beta: 0 for adversarial training, 6 for the form of TRADES.
      temperatures: first and last tau; (2.5, 2.0) on CIFAR-10, with AWP (2.5, 1.5).
      interpolations: first and last lambda; (0.7, 0.95), with AWP (0.7, 0.85).
      decay: of the average.
      attack: default PGD-10, step epsilon / 4, uniform start; Gaussian with `beta`.
      official_quirks: what the code does.

    Source: `yuyuwu5/ADR:src/adr.py`, `src/advTrainer.py:280-326`.
    """

    student_views: tuple[str, ...] = ("adversarial",)

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        beta: float = 0.0,
        temperatures: Sequence[float] = (2.5, 2.0),
        interpolations: Sequence[float] = (0.7, 0.95),
        decay: float = 0.995,
        attack: Attack | None = None,
        attack_batch_norm: str | None = None,
        official_quirks: bool = False,
    ) -> None:
        self.student_views = ("clean", "adversarial") if beta else ("adversarial",)
        attack = attack or default_attack("gaussian" if beta else "uniform")
        mode = attack_batch_norm or ("training" if official_quirks else "inference")
        super().__init__(student, teachers, context, attack, mode)
        self.beta, self.average = beta, TeachingAverage(student, self, decay)
        self.temperatures, self.interpolations = tuple(temperatures), tuple(interpolations)

    def own_answers(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        self.average.follow(tf.convert_to_tensor(self.optimizer.iterations))
        return {"own": tf.stop_gradient(self.average(images))}

    def annealed(self, ends: Sequence[float]) -> tf.Tensor:
        """A value at this step, on its way from the first to the last of `ends`."""
        first, last = ends
        epochs = self.context.epochs
        left = 0.0 if epochs is None else Cosine(epochs)(self.epoch)
        return last + (first - last) * left

    def target(self, labels: tf.Tensor, teachers: Tensors) -> tf.Tensor:
        """q at this step, `[batch, classes]`."""
        tau, share = self.annealed(self.temperatures), self.annealed(self.interpolations)
        return rectified(teachers["own"], labels, tau, share)

    def perturb(
        self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, teachers: Tensors
    ) -> tf.Tensor:
        if self.beta:
            clean = tf.stop_gradient(self.attacked_fn()(images))
            return self.attack_divergence(images, labels, seeds, clean)
        target, loss = self.target(labels, teachers), tf.nn.softmax_cross_entropy_with_logits
        return self.run_attack(images, labels, seeds, lambda _, z, rows: loss(target[rows], z))

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        target, learnt = self.target(labels, teachers), student[self.student_views[0]]
        terms = {"cross_entropy": tf.nn.softmax_cross_entropy_with_logits(target, learnt)}
        if self.beta:
            terms["kl"] = kl_divergence(student["clean"], student["adversarial"])
        return terms

    @property
    def term_weights(self) -> dict[str, float]:
        return {"kl": self.beta}


def rectified(
    logits: tf.Tensor,
    labels: tf.Tensor,
    temperature: float | tf.Tensor,
    interpolation: float | tf.Tensor,
) -> tf.Tensor:
    """The rectified labels q of `ADR`, `[batch, classes]`, from the average's logits."""
    p = tf.nn.softmax(logits / temperature)
    own = tf.one_hot(labels, p.shape[-1])
    error = tf.reduce_max(p, axis=1) - tf.reduce_sum(p * own, axis=1)
    trust = tf.clip_by_value(interpolation - error, 0.0, 1.0)[:, tf.newaxis]
    return trust * p + (1.0 - trust) * own
