"""Densely guided knowledge distillation (Son et al., ICCV 2021, arXiv 2009.08825)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Models, Tensors, TrainingContext, Weighed
from mtard_tf.plugins.teacher_assistant.knowledge_distillation import KnowledgeDistillation


class DenselyGuided(KnowledgeDistillation):
    """The teacher and all assistants teach at once; some are left out at random in each step.

        loss = alpha CE(s, y) + (1 - alpha) T^2 sum_{k kept} KL(softmax(t_k / T) || softmax(s / T))

    With one ancestor this is `knowledge_distillation`. The teachers are all earlier links of the
    chain, under any roles. The sum is the official code's: more ancestors, more soft loss.

    Args:
      alpha: 0 as the official default, which leaves the hard labels out.
      temperature: 5 as the official default.
      drop: ancestors that each step leaves out, drawn anew from (seed, step); one always stays. 0
        is the method without its stochastic part; the official default is 1.

    Raises:
      ValueError: no ancestors, or a drop below 0.

    Source: `wonchulSon/DGKD`, `train.py:107-127`, which crashes as published (`args.TA_num`).
    """

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        alpha: float = 0.0,
        temperature: float = 5.0,
        labels: str = "online",
        label_smoothing: float = 0.0,
        official_quirks: bool = False,
        drop: int = 0,
    ) -> None:
        self.teacher_views = {role: "clean" for role in sorted(teachers or {})}
        if drop < 0:
            raise ValueError(f"DenselyGuided.drop is {drop}; give a whole number, at least 0.")
        if not self.teacher_views:
            raise ValueError("DenselyGuided has no teachers; name all earlier links of the chain.")
        super().__init__(
            student,
            teachers,
            context=context,
            alpha=alpha,
            temperature=temperature,
            labels=labels,
            label_smoothing=label_smoothing,
            official_quirks=official_quirks,
        )
        self.drop = min(drop, len(self.teacher_views) - 1)

    def kept(self) -> tf.Tensor:
        """1 for the ancestors of this step, 0 for those left out, float32 `[ancestors]`."""
        count = len(self.teacher_views)
        # The same on every replica: it depends on the seed and the step alone.
        seed = tf.stack([tf.constant(self.context.seed, tf.int64), self.steps_done.value])
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=seed)
        return tf.cast(order < count - self.drop, tf.float32)

    def weigh(self, means: Tensors, teachers: Tensors) -> Weighed:
        weights, logs = super().weigh(means, teachers)
        kept = self.kept() if self.drop else tf.ones([len(self.teacher_views)])
        for i, role in enumerate(self.teacher_views):
            weights[f"kl_{role}"] *= kept[i]
        return weights, logs
