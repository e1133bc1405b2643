"""ARD: Adversarially Robust Distillation (Goldblum et al., AAAI 2020, arXiv 1905.09747)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Distiller, Models, Tensors, TrainingContext, default_attack
from mtard_tf.losses import kl_divergence


class ARD(Distiller):
    """The robust teacher's answer on the clean image is the target on the adversarial one.

        loss = alpha t^2 KL(softmax(T(x) / t) || softmax(S(x') / t)) + (1 - alpha) CE(S(x), y)
        x' = PGD-10 on CE(S(x'), y) from a uniform start

    Departures of the official code from this, all of them with `official_quirks`:

    * the KL is the mean over batch *and* classes; here it is summed over classes, as the formula
      says, which is 10 times as much for 10 classes;
    * the attack runs with BatchNorm in training mode: on the batch's statistics, and its ten passes
      move the running ones;
    * with alpha = 1 the clean batch still passes through the student, for its BatchNorm alone.

    Its uniform start is clipped to the pixels' range only after the first step, here before it,
    with quirks or without. Its learning-rate schedule drops once: at its second epoch it sets the
    first value again. That is `schedules.StepDecay(epochs=(100,))`, where the script's arguments
    ask for `(100, 150)`.

    Args:
      alpha: weight of the distillation.
      temperature: t, of teacher and student.
      attack: default PGD-10, step epsilon / 4, uniform start.
      official_quirks: what the code does.

    Source: `goldblum/AdversariallyRobustDistillation:main.py:60-135`.
    """

    student_views: tuple[str, ...] = ("adversarial", "clean")
    teacher_views = {"robust": "clean"}

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        alpha: float = 1.0,
        temperature: float = 30.0,
        attack: Attack | None = None,
        attack_batch_norm: str | None = None,
        label_smoothing: float = 0.0,
        official_quirks: bool = False,
    ) -> None:
        if alpha == 1 and not official_quirks:
            self.student_views = ("adversarial",)
        attack = attack or default_attack("uniform")
        mode = attack_batch_norm or ("training" if official_quirks else "inference")
        super().__init__(student, teachers, context, attack, mode, label_smoothing)
        self.check_smoothing(1 - alpha, "alpha = 1")
        self.alpha = alpha
        self.set_temperature(temperature)
        classes = student.output_shape[-1]
        self.kl_scale = temperature**2 / (classes if official_quirks else 1)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        divergence = kl_divergence(
            teachers["robust"],
            student["adversarial"],
            teacher_temperature=self.temperature,
            student_temperature=self.temperature,
        )
        terms = {"kl_robust": self.kl_scale * divergence}
        if self.alpha != 1:
            terms["cross_entropy"] = self.cross_entropy(student["clean"], labels)
        return terms

    @property
    def term_weights(self) -> dict[str, float]:
        return {"kl_robust": self.alpha, "cross_entropy": 1 - self.alpha}
