"""Relatives of PGD, Linf and L2: on the Carlini-Wagner margin, and with momentum."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import geometry, gradients, pgd
from mtard_tf.threat import ThreatModel

ModelFn = Callable[[tf.Tensor], tf.Tensor]
Objective = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


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

    def __call__(
        self,
        model_fn: ModelFn,
        images: tf.Tensor,
        labels: tf.Tensor,
        *,
        threat: ThreatModel,
        seeds: tf.Tensor,
        objective: Objective | None = None,
    ) -> tf.Tensor:
        """Perturbed images, float32, shaped like `images`; see the package docstring."""
        objective = objective or (
            lambda _, logits: losses.cw_margin(logits, labels, confidence=self.confidence)
        )
        return super().__call__(
            model_fn, images, labels, threat=threat, seeds=seeds, objective=objective
        )


@dataclasses.dataclass(frozen=True)
class MIM:
    """Momentum iterative method (Dong et al., CVPR 2018, arXiv 1710.06081).

        g <- decay * g + grad / mean |grad|
        x <- project(x + relative_step_size * epsilon * direction(g))

    Attributes:
      num_steps: gradient steps.
      relative_step_size: step size as a fraction of epsilon.
      decay: how much of the momentum is kept.
      targeted: the labels are classes to reach, not to leave.

    Raises:
      ValueError: a number of steps or a step size that means nothing.
    """

    num_steps: int = 10
    relative_step_size: float = 0.1
    decay: float = 1.0
    targeted: bool = False

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"MIM.num_steps is {self.num_steps}; give at least 1.")
        if not self.relative_step_size > 0:
            raise ValueError(
                f"MIM.relative_step_size is {self.relative_step_size}; give a fraction of epsilon "
                "above 0."
            )

    def __call__(
        self,
        model_fn: ModelFn,
        images: tf.Tensor,
        labels: tf.Tensor,
        *,
        threat: ThreatModel,
        seeds: tf.Tensor,
        objective: Objective | None = None,
    ) -> tf.Tensor:
        """Perturbed images, float32, shaped like `images`; see the package docstring."""
        sign = -1.0 if self.targeted else 1.0
        objective = objective or (lambda _, logits: sign * losses.cross_entropy(logits, labels))
        step_size = self.relative_step_size * threat.epsilon
        axes = list(range(1, images.shape.rank))

        def step(i, perturbed, momentum):
            gradient = gradients.slope(model_fn, perturbed, objective).gradient
            size = tf.reduce_mean(tf.abs(gradient), axis=axes, keepdims=True)
            momentum = self.decay * momentum + gradient / tf.maximum(size, 1e-12)
            moved = perturbed + step_size * geometry.steepest(momentum, threat.norm)
            return i + 1, threat.project(moved, images), momentum

        _, perturbed, _ = tf.while_loop(
            lambda i, *_: i < self.num_steps,
            step,
            (0, images, tf.zeros_like(images)),
            shape_invariants=(tf.TensorShape([]), images.shape, images.shape),
            parallel_iterations=1,
        )
        return tf.stop_gradient(perturbed)
