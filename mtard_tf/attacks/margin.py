"""Relatives of PGD, Linf and L2: on the Carlini-Wagner margin, and with momentum."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import geometry, gradients, pgd, shrinking_batches
from mtard_tf.attacks.attack import Attack, Problem


@dataclasses.dataclass(frozen=True)
class CWInf(pgd.PGD):
    """PGD on the Carlini-Wagner margin: the "CW" column of the distillation papers.

        x <- project(x + step * direction(grad -max(z_label - max other + confidence, 0)))

    The box is enforced at every step (as in IAD and Fair-ARD; CIARD clips only at the end).

    Attributes:
      confidence: kappa; the loss keeps pushing until the margin is below -confidence.
    """

    num_steps: int = 30
    start: str = "none"
    confidence: float = 50.0

    def loss(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """The margin hinge, `[batch]`."""
        return losses.cw_margin(logits, labels, confidence=self.confidence)


@dataclasses.dataclass(frozen=True)
class MIM(Attack):
    """Momentum iterative method (Dong et al., CVPR 2018, arXiv 1710.06081).

        g <- decay * g + grad / mean |grad|
        x <- project(x + relative_step_size * epsilon * direction(g))

    Attributes:
      num_steps: gradient steps.
      relative_step_size: step size as a fraction of epsilon.
      decay: how much of the momentum is kept.
      targeted: the labels are classes to reach, not to leave.

    Raises:
      ValueError: fewer than 1 step, or a step size that is not above 0.
    """

    num_steps: int = 10
    relative_step_size: float = 0.1
    decay: float = 1.0
    targeted: bool = False

    def __post_init__(self) -> None:
        pgd.require_steps(self)

    def run(self, problem: Problem) -> tf.Tensor:
        images, threat = problem.images, problem.threat
        sign = -1.0 if self.targeted else 1.0
        objective = problem.objective or (
            lambda _, logits: sign * losses.cross_entropy(logits, problem.labels)
        )
        step_size = self.relative_step_size * threat.epsilon
        axes = list(range(1, images.shape.rank))

        def step(_: tf.Tensor, perturbed: tf.Tensor, momentum: tf.Tensor) -> tuple:
            gradient = gradients.slope(problem.model_fn, perturbed, objective).gradient
            size = tf.reduce_mean(tf.abs(gradient), axis=axes, keepdims=True)
            momentum = self.decay * momentum + gradient / tf.maximum(size, 1e-12)
            moved = perturbed + step_size * geometry.steepest(momentum, threat.norm)
            return threat.project(moved, images), momentum

        return shrinking_batches.loop(self.num_steps, step, (images, tf.zeros_like(images)))[0]
