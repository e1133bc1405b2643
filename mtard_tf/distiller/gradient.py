"""The loss of a step, weighed as the family says, and its gradient."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mtard_tf.distiller import gradient_matching
from mtard_tf.distiller.teachers import Tensors
from mtard_tf.distiller.updates import connected
from mtard_tf.distribute.replicas import mean_shares, replica_sums

# The weights of terms by name, and what to log beside them.
Weighed = tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]


def step_gradient(
    distiller: Any, labels: tf.Tensor, views: Tensors, teachers: Tensors
) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
    """This replica's gradient of the step's loss, and what to log.

    It is taken at the weights as they are, or at those of the context's `weight_perturbation`.

    Args:
      distiller: a `Distiller`, compiled.
      labels: class ids, `[batch]`.
      views: view -> images of this replica.
      teachers: role -> logits, `[batch, classes]`.

    Returns:
      A gradient for each of `trained_variables`, and scalars by name: `loss`, the mean of each
      term, and what `weigh` logs.
    """

    def loss(weights: list[tf.Tensor] | None = None) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        return _loss(distiller, labels, views, teachers, weights)

    weights, moved = distiller.trained_variables, None
    if distiller.context.weight_perturbation is not None:
        moved = distiller.context.weight_perturbation.ascended(
            lambda: loss()[0],
            distiller.student.trainable_variables,
            distiller.step_state(),
            distiller.epoch,
        )
    with tf.GradientTape() as tape:
        if moved is not None:
            tape.watch(moved)
        scaled, logs = loss(moved)
    # The student's are the first of the trained variables.
    sources = weights if moved is None else [*moved, *weights[len(moved) :]]
    return connected(tape.gradient(scaled, sources), weights), logs


def _loss(
    distiller: Any,
    labels: tf.Tensor,
    views: Tensors,
    teachers: Tensors,
    weights: list[tf.Tensor] | None,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """This replica's share of the weighed loss, scaled for the optimizer, and what to log."""
    student, matching, further = distiller.run_student(views, weights), distiller.matching, {}
    terms = _checked(type(distiller).__name__, distiller.terms(labels, student, teachers))
    if matching is not None:
        further[gradient_matching.TERM] = matching.weight
        terms[gradient_matching.TERM] = matching.term(student, views, teachers, weights)
    shares = mean_shares(terms)
    means = replica_sums({k: tf.stop_gradient(v) for k, v in shares.items()})
    term_weights, logs = distiller.weigh(
        {name: mean for name, mean in means.items() if name not in further}, teachers
    )
    term_weights = {**term_weights, **further}
    loss = tf.add_n([term_weights[name] * share for name, share in shares.items()])
    total = tf.add_n([term_weights[name] * means[name] for name in means])
    return distiller.optimizer.scale_loss(loss), {"loss": total, **means, **logs}


def _checked(owner: str, terms: Tensors) -> dict[str, tf.Tensor]:
    """The terms, if each is one value per example."""
    for name, term in terms.items():
        if term.shape.rank != 1:
            raise ValueError(
                f"{owner}.terms: {name!r} has the shape {term.shape}; give one value per "
                "example, [batch]."
            )
    return dict(terms)
