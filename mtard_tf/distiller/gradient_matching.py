"""Indirect gradient distillation: a term by which the student learns its teacher's gradients."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.distiller.teachers import Tensors

TERM = "gradient_matching"
MIRRORED = "mirrored"
_TEACHER = "robust"
_AT_PLUS, _AT_MINUS = f"{_TEACHER}_at_adversarial", f"{_TEACHER}_at_{MIRRORED}"


class GradientMatching:
    """IGDM (ICLR 2025, arXiv 2312.03286), beside the terms of any distiller.

        loss <- loss + alpha (epoch / epochs) KL(T(x') - T(x-) || S(x') - S(x-)),   x- = 2 x - x'

    with T the teacher "robust", softmax of the *differences* of logits, and the epoch counted from
    1. x- is not clipped and may leave the box by epsilon, as in the official code. The student sees
    it in training mode, after its other views. The divergence is a whole one: `rslad` and `mtard`
    have a tenth of theirs, so that alpha = 0.1 there is what alpha = 1 is to the others.

    Departures of the official code from this: it divides by 200 epochs, however many there are, and
    attacks in a ball of 2/255 with steps of 8/255, two arguments being exchanged.

    Args:
      distiller: its context has alpha, `gradient_matching`.

    Raises:
      ValueError: a distiller without an adversarial view or a teacher "robust", or one that matches
        gradients itself.

    Source: `HongsinLee/saad:igdm.py:42-62`.
    """

    def __init__(self, distiller: Any) -> None:
        self._distiller = distiller
        name, views = type(distiller).__name__, distiller.student_views
        if MIRRORED in views:
            raise ValueError(
                f"{name} matches gradients itself; set its own alpha, and leave "
                "Stage.gradient_matching at 0."
            )
        if "adversarial" not in views or _TEACHER not in distiller.teachers.inference:
            raise ValueError(
                f"Stage.gradient_matching is {distiller.context.gradient_matching!r}, but {name} "
                "has no student on adversarial images with a teacher 'robust'; set 0, or take one "
                "like @distillers.rslad."
            )

    @property
    def weight(self) -> tf.Tensor:
        """That of the term in this epoch."""
        context = self._distiller.context
        return context.gradient_matching * context.growth(self._distiller.epoch)

    def seen(self, views: Tensors, answers: Tensors) -> tuple[Tensors, Tensors]:
        """`views` with the mirrored one, `answers` with what the teacher says of it and of x'."""
        views = {**views, MIRRORED: mirrored(views)}
        on = self._distiller.teachers.on
        plus = on(_TEACHER, "adversarial", views, answers)
        minus = on(_TEACHER, MIRRORED, views, answers)
        return views, {**answers, _AT_PLUS: plus, _AT_MINUS: minus}

    def term(
        self, student: Tensors, views: Tensors, answers: Tensors, weights: list | None
    ) -> tf.Tensor:
        """The divergence, `[batch]`, inside the tape.

        Args:
          student: its logits by view.
          views: from `seen`.
          answers: from `seen`.
          weights: as `Distiller.run_student` takes them.
        """
        minus = self._distiller.student_logits(views[MIRRORED], weights)
        teacher = answers[_AT_PLUS], answers[_AT_MINUS]
        return losses.gradient_matching(*teacher, student["adversarial"], minus)


def mirrored(views: Tensors) -> tf.Tensor:
    """x- = 2 x - x', not clipped, of the views "clean" and "adversarial"."""
    return 2.0 * views["clean"] - views["adversarial"]
