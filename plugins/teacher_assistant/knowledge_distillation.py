"""Knowledge distillation (Hinton, Vinyals, Dean 2015, arXiv 1503.02531)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Distiller, Models, Tensors, TrainingContext
from mtard_tf.losses import kl_divergence


class KnowledgeDistillation(Distiller):
    """loss = alpha CE(s, y) + (1 - alpha) T^2 KL(softmax(t / T) || softmax(s / T)).

    T^2 keeps the soft term's gradient, which falls as 1 / T^2, on one scale with the hard term's.
    The divergence is summed over classes and averaged over the batch.

    Args:
      alpha: weight of the hard labels, 0 to 1.
      temperature: T of both sides.
      labels: "online": the teacher sees each augmented batch; "cached": its logits on the
        plain training images, computed once.
      official_quirks: the divergence is a mean over the batch *and* the classes, as in the code of
        both papers that build on this one (`nn.KLDivLoss()`): the soft term is smaller by the
        number of classes.
    """

    teacher_views = {"teacher": "clean"}

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        alpha: float = 0.5,
        temperature: float = 4.0,
        labels: str = "online",
        label_smoothing: float = 0.0,
        official_quirks: bool = False,
    ) -> None:
        super().__init__(student, teachers, context=context, label_smoothing=label_smoothing)
        if not 0 <= alpha <= 1:
            raise ValueError(
                f"{type(self).__name__}.alpha is {alpha}; give a weight between 0 (soft labels "
                "only) and 1 (hard labels only)."
            )
        self.check_smoothing(alpha, "alpha = 0")
        self.alpha = alpha
        self.official_quirks = official_quirks
        self.set_temperature(temperature)
        self.teachers.label(labels)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        return {
            "cross_entropy": self.cross_entropy(student["clean"], labels),
            **{
                f"kl_{role}": kl_divergence(
                    teachers[role],
                    student["clean"],
                    teacher_temperature=self.temperature,
                    student_temperature=self.temperature,
                )
                for role in self.teacher_views
            },
        }

    @property
    def term_weights(self) -> dict[str, float]:
        classes = self.student.output_shape[-1] if self.official_quirks else 1
        soft = (1 - self.alpha) * self.temperature**2 / classes
        return {"cross_entropy": self.alpha} | {f"kl_{role}": soft for role in self.teacher_views}
