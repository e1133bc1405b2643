"""The views of a batch, and what the teachers answer to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from mtard_tf.distiller.teachers import Tensors


def seen(
    distiller: Any,
    images: tf.Tensor,
    labels: tf.Tensor,
    ids: tf.Tensor,
    cached: Sequence[tf.Tensor],
) -> tuple[Tensors, Tensors]:
    """View -> images of this replica, and role -> logits, no gradient.

    Args:
      distiller: a `Distiller`.
      images: clean, `[batch, height, width, channels]`.
      labels: class ids, `[batch]`.
      ids: of the images, int64 `[batch]`.
      cached: the logits that came with the batch.
    """
    views, teachers = {"clean": images}, distiller.teachers
    known = dict(zip(teachers.cached, cached, strict=False))
    answers = teachers.ask(views, known | distiller.own_answers(images))
    if distiller.inner_attack is not None:
        views["adversarial"] = distiller.inner_attack.view(
            lambda seeds: distiller.perturb(images, labels, seeds, answers), ids
        )
    views |= distiller.further_views(views)
    answers = teachers.ask(views, answers)
    matching = distiller.matching
    return (views, answers) if matching is None else matching.seen(views, answers)
