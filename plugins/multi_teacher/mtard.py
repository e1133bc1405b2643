"""MTARD: Multi-Teacher Adversarial Robustness Distillation (Zhao et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.distiller.gradient import Weighed
from mtard_tf.plugins.multi_teacher import balance, climbing


class MTARD(Distiller):
    """A clean teacher handles clean images, a robust teacher adversarial ones.

        loss = sum_k w_k KL(T_k(x_k) / tau_k || S(x_k)) / 10,    tau_k = 1
        x_clean = x,  x_robust = x' = PGD-10 on CE(S(x'), y) from x + 0.001 N(0, 1)

    with the weights of Normalization Loss Balance, updated with this step's losses before they are
    used. The official mean over batch *and* classes, times classes / 10 (the script for 100 classes
    multiplies by 10), is the divergence / 10 for any number of classes. There is no label term and
    no temperature-squared factor. The student is attacked in inference mode, and sees x', then x in
    training mode. Where it starts as a copy of a teacher, L(0) is that of a student with equal
    logits, see `balance.first_losses`.

    Args:
      weight_rate: rate of the loss balance; 0 keeps the weights fixed.
      balance_target: "pace", the loss balance, or "w_robust" (ours): weights that climb W-Robust on
        the validation split, see `climbing`; the stage then needs a `validation_attack`.
      weight_step: the first step of "w_robust".
      initial_weights: role -> weight, summing to 1; default equal.
      exponent: of the relative losses.
      log_offset: inside the logarithm of the KL's target; 1e-5 as the official code. It shifts the
        losses, and through them L(0) and the balance.
      teacher_views: role -> view; default {"robust": "adversarial", "clean": "clean"}. More roles
        make more teachers (ours; the paper has two), one is plain distillation at weight 1.
      attack: default PGD-10, step epsilon / 4, Gaussian start.

    Source: `zhaoshiji123/MTARD`, `mtard/mtard_loss.py:27-58`, `mtard/mtard_resnet18_cifar10.py`.
    """

    student_views: tuple[str, ...] = ("adversarial", "clean")
    teacher_views: Mapping[str, str] = {"robust": "adversarial", "clean": "clean"}

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        weight_rate: float = 0.025,
        balance_target: str = "pace",
        weight_step: float = 0.1,
        initial_weights: Mapping[str, float] | None = None,
        exponent: float = 1.0,
        log_offset: float = 1e-5,
        teacher_views: Mapping[str, str] | None = None,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
    ) -> None:
        if teacher_views is not None:
            self.teacher_views = dict(teacher_views)
            self.student_views = balance.seen_views(self.teacher_views, self.student_views)
        super().__init__(student, teachers, context, attack or default_attack(), attack_batch_norm)
        self.weight_rate, self.exponent, self.log_offset = weight_rate, exponent, log_offset
        self.roles = tuple(self.teacher_views)
        start = balance.start_weights(initial_weights, self.roles)
        self.balance_weights = balance.state(self, "balance_weights", start)
        self.climb = climbing.chosen(self, balance_target, weight_step)
        self.follows_validation = self.climb is not None
        # NaN until the first step has measured them.
        self.first_losses = balance.state(self, "first_losses", [float("nan")] * len(self.roles))

    def teacher_temperatures(self) -> tf.Tensor:
        """`[teachers]`, those of this step's losses."""
        return tf.ones([len(self.roles)])

    def said_at_start(self, copied: Sequence[str]) -> str:
        alone = not copied or len(self.roles) == 1 or self.climb is not None
        return "" if alone else balance.STARTS_AS_TEACHER.format(copied[0])

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        return self._divergences(teachers, [student[self.teacher_views[r]] for r in self.roles])

    def validated(self, measured: Mapping[str, float]) -> None:
        if self.climb is not None:
            self.climb.follow(measured)

    def weigh(self, means: Tensors, teachers: Tensors) -> Weighed:
        if self.climb is not None:
            return self._weighed(tf.convert_to_tensor(self.balance_weights.value))
        losses = tf.stack([means[f"kl_{role}"] for role in self.roles])
        equal = [tf.zeros_like(teachers[role]) for role in self.roles]
        first = balance.first_losses_once(
            self.first_losses.value, losses, lambda: self._divergences(teachers, equal).values()
        )
        weights = balance.balanced_weights(
            self.balance_weights.value,
            losses,
            first,
            rate=self.weight_rate * self.context.rate_schedule(self.epoch),
            exponent=self.exponent,
        )
        self.first_losses.assign(first)
        self.balance_weights.assign(weights)
        return self._weighed(weights)

    def _weighed(self, weights: tf.Tensor) -> Weighed:
        by_role = dict(zip(self.roles, tf.unstack(weights), strict=True))
        logs = {f"weight_{role}": weight for role, weight in by_role.items()}
        return {f"kl_{role}": weight for role, weight in by_role.items()}, logs

    def _divergences(self, teachers: Tensors, student: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Each teacher's term, `[batch]`, for these logits of the student, by role."""
        answers, temperatures = [teachers[r] for r in self.roles], self.teacher_temperatures()
        terms = balance.divergences(answers, student, temperatures, self.log_offset)
        return {f"kl_{role}": term for role, term in zip(self.roles, terms, strict=True)}
