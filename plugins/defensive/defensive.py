"""Defensive distillation (Papernot et al., IEEE S&P 2016, arXiv 1511.04508)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Distiller, Models, Tensors, TrainingContext
from mtard_tf.losses import soft_cross_entropy


class Defensive(Distiller):
    """loss = -sum_c softmax(t / T)_c log softmax(s / T)_c, with one T throughout.

    The teacher was trained at the same T (`distillers.natural.temperature`), on hard labels; the
    student is trained on the teacher's soft labels alone, without a hard-label term and without a
    temperature-squared factor, and deployed at T = 1. Any number of stages may follow one another,
    each on the soft labels of the one before (arXiv 2305.08076).

    Gradients at T are about T times smaller: with SGD give it a start (`Stage.initial`, as the code
    below) or use Adam. What it gains against gradient attacks on softmax(s) is a saturated softmax,
    not robustness: attack s / T, or the margin of s (docs/measures.md).

    Args:
      temperature: T of this stage; 20 in the paper's headline.
      labels: "cached", as the official code: soft labels of the plain training images, computed
        once with dropout off, whatever the augmentation; or "online": of each batch, as augmented.

    Source: `carlini/nn_robust_attacks`, `train_models.py:74-104`, and the authors of 2305.08076,
    `train_models_ta.py:88-117`.
    """

    needs_labels = False
    teacher_views = {"teacher": "clean"}

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        temperature: float = 20.0,
        labels: str = "cached",
    ) -> None:
        super().__init__(student, teachers, context=context)
        self.set_temperature(temperature)
        self.teachers.label(labels)

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        return {
            "soft_cross_entropy": soft_cross_entropy(
                teachers["teacher"],
                student["clean"],
                teacher_temperature=self.temperature,
                student_temperature=self.temperature,
            )
        }
