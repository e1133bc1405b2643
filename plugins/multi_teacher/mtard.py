"""MTARD: Multi-Teacher Adversarial Robustness Distillation (Zhao et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mtard_tf.distiller.distiller import Distiller, default_attack
from mtard_tf.distribute.replicas import global_means, replicated_state
from mtard_tf.losses import kl_divergence
from mtard_tf.plugins.multi_teacher.balance import balanced_weights, first_losses


class MTARD(Distiller):
    """A clean teacher handles clean images, a robust teacher adversarial ones.

        loss = sum_k w_k KL(T_k(x_k) / tau_k || S(x_k)) / 10,    tau_k = 1
        x_clean = x,  x_robust = x' = PGD-10 on CE(S(x'), y), S in inference mode, from
        x + 0.001 N(0, 1)

    with the weights of Normalization Loss Balance, updated with this step's losses before they are
    used. The official mean over batch *and* classes, times classes / 10 (the script for 100 classes
    multiplies by 10), is the divergence / 10 for any number of classes. There is no label term and
    no temperature-squared factor. The student sees the adversarial batch first, then the clean one,
    both in training mode. Where it starts as a copy of a teacher, L(0) is not measured but that of
    a student with equal logits, see `balance.first_losses`.

    Args:
      weight_rate: rate of the loss balance; 0 keeps the weights fixed.
      initial_weights: role -> weight, summing to 1; default equal.
      exponent: of the relative losses.
      log_offset: inside the logarithm of the KL's target; 1e-5 as the official code. It shifts the
        losses, and through them L(0) and the balance.
      teacher_views: role -> view; default {"robust": "adversarial", "clean": "clean"}. More roles
        make more teachers (ours; the paper has two). One role has weight 1: plain distillation from
        one teacher.
      attack: default PGD-10, step epsilon / 4, Gaussian start.

    Source: `zhaoshiji123/MTARD`, `mtard/mtard_loss.py:27-58`, `mtard/mtard_resnet18_cifar10.py`.
    """

    student_views: tuple[str, ...] = ("adversarial", "clean")
    teacher_views: Mapping[str, str] = {"robust": "adversarial", "clean": "clean"}

    def __init__(
        self,
        student,
        teachers=None,
        *,
        weight_rate: float = 0.025,
        initial_weights: Mapping[str, float] | None = None,
        exponent: float = 1.0,
        log_offset: float = 1e-5,
        teacher_views: Mapping[str, str] | None = None,
        attack=None,
        **kwargs,
    ):
        if teacher_views is not None:
            self.teacher_views = dict(teacher_views)
            seen = set(teacher_views.values())
            if not seen or seen - set(self.student_views):
                raise ValueError(
                    f"teacher_views is {dict(teacher_views)}; give at least one role, each with "
                    f"one of the views {', '.join(self.student_views)}."
                )
            # A view without a teacher has no term.
            self.student_views = tuple(view for view in self.student_views if view in seen)
        super().__init__(student, teachers, attack=attack or default_attack(), **kwargs)
        self.weight_rate = weight_rate
        self.exponent = exponent
        self.log_offset = log_offset
        self.roles = tuple(self.teacher_views)
        start = initial_weights or {role: 1 / len(self.roles) for role in self.roles}
        if set(start) != set(self.roles) or abs(sum(start.values()) - 1) > 1e-6:
            raise ValueError(
                f"initial_weights is {dict(start)}; give one weight for each of "
                f"{', '.join(self.roles)}, summing to 1."
            )
        self.balance_weights = self.balance_state("balance_weights", [start[r] for r in self.roles])
        self.first_losses = self.balance_state("first_losses", [float("nan")] * len(self.roles))

    def balance_state(self, name: str, values: list[float]):
        """A value per teacher, the same on all replicas."""

        def initial(shape, dtype):
            return tf.constant(values, dtype)

        return replicated_state(self, name, (len(values),), initial)

    def teacher_temperatures(self) -> tf.Tensor:
        """`[teachers]`, those of this step's losses."""
        return tf.ones([len(self.roles)])

    def said_at_start(self, copied):
        if not copied or len(self.roles) == 1:
            return ""
        return (
            f"the student starts from its teacher {copied[0]!r}, whose L(0) is then a rounding "
            "error that normalises nothing; the loss balance takes the losses of a student that "
            "calls all classes equally likely for L(0)."
        )

    def terms(self, labels, student, teachers):
        return self._divergences(teachers, [student[self.teacher_views[r]] for r in self.roles])

    def weigh(self, means, teachers):
        losses = tf.stack([means[f"kl_{role}"] for role in self.roles])
        equal = [tf.zeros_like(teachers[role]) for role in self.roles]
        of_uniform = global_means(list(self._divergences(teachers, equal).values()))
        first = tf.where(
            tf.math.is_nan(self.first_losses), first_losses(losses, of_uniform), self.first_losses
        )
        weights = balanced_weights(
            self.balance_weights.value,
            losses,
            first,
            rate=self.weight_rate * self.rate_schedule(self.epoch),
            exponent=self.exponent,
        )
        self.first_losses.assign(first)
        self.balance_weights.assign(weights)
        by_role = dict(zip(self.roles, tf.unstack(weights), strict=True))
        return (
            {f"kl_{role}": weight for role, weight in by_role.items()},
            {f"weight_{role}": weight for role, weight in by_role.items()},
        )

    def _divergences(self, teachers, student):
        """Each teacher's term, `[batch]`, for these logits of the student, by role."""
        temperatures = self.teacher_temperatures()
        return {
            f"kl_{role}": kl_divergence(
                teachers[role],
                logits,
                teacher_temperature=temperatures[i],
                log_offset=self.log_offset,
            )
            / 10.0
            for i, (role, logits) in enumerate(zip(self.roles, student, strict=True))
        }
