"""DeepFool: steps to the nearest linearised class boundary, Linf and L2."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import geometry, jacobian, shrinking_batches
from mtard_tf.attacks.attack import MinimalAttack, Problem, require_at_least_one

# How far two ways to compute one logit may lie apart, relative to the largest.
_ROUNDING, _FLOAT32 = {tf.float16: 8e-3, tf.bfloat16: 6e-2}, 3e-5


@dataclasses.dataclass(frozen=True)
class DeepFool(MinimalAttack):
    """DeepFool (Moosavi-Dezfooli et al., CVPR 2016, arXiv 1511.04599, algorithm 2).

        r_i = (|f_k| + m) / |w_k|_2^2 w_k              (Linf: / |w_k|_1 sign(w_k))
        x = clip(x_0 + (1 + overshoot) sum_i r_i)

    with k the nearest of the linearised boundaries f_k = z_k - z_label, w_k = grad f_k. Minimises
    the distance, whatever epsilon is; what is not broken within epsilon comes back unchanged. An
    image leaves the batch at the step that takes its margin below -m / 2.

    m is 3e-5 of the largest clean logit (more in half precision): what another order of the same
    sums may change, so that the net as it is counted says what the net as it was attacked does. The
    authors' code has m = 1e-4 and stops at 0, which depends on the scale of the logits.

    Attributes:
      num_steps: most steps.
      overshoot: eta, how far behind the boundary to land.
      candidates: how many of the likeliest other classes are considered.

    Raises:
      ValueError: a number below 1.
    """

    fixed_loss = "DeepFool follows the decision boundary"

    num_steps: int = 50
    overshoot: float = 0.02
    candidates: int = 9

    def __post_init__(self) -> None:
        require_at_least_one(self, "num_steps", "candidates")

    def minimal(self, problem: Problem) -> tf.Tensor:
        model_fn, images, labels, threat, *_ = problem

        def step(_: tf.Tensor, perturbed: tf.Tensor, total: tf.Tensor, margins: tf.Tensor) -> tuple:
            rows = shrinking_batches.rows_where(margins >= stop)
            x, clean, so_far, own, behind = shrinking_batches.take(
                (perturbed, images, total, labels, beyond), rows
            )
            gap, normal = jacobian.nearest_boundary(
                model_fn, x, own, norm=threat.norm, candidates=self.candidates
            )
            so_far += _shortest(tf.abs(gap) + behind, normal, threat.norm)
            moved = clean + (1 + self.overshoot) * so_far
            moved = tf.clip_by_value(moved, threat.minimum, threat.maximum)
            reached = losses.margin(model_fn(moved), own)
            before, after = (perturbed, total, margins), (moved, so_far, reached)
            return shrinking_batches.scatter(before, rows, after)

        logits = model_fn(images)
        margins = losses.margin(logits, labels)
        beyond = _ROUNDING.get(logits.dtype, _FLOAT32) * tf.reduce_max(
            tf.abs(tf.cast(logits, tf.float32)), axis=1
        )
        # What is wrong when clean stays as it is.
        stop, margins = -beyond / 2, tf.where(margins < 0, -float("inf"), margins)
        perturbed, *_ = shrinking_batches.loop(
            self.num_steps,
            step,
            (images, tf.zeros_like(images), margins),
            going=lambda *state: tf.reduce_any(state[-1] >= stop),
        )
        return perturbed


def _shortest(way: tf.Tensor, normal: tf.Tensor, norm: str) -> tf.Tensor:
    """Shortest step d with <normal, d> = way, in the given norm."""
    if norm == "linf":
        length = tf.math.divide_no_nan(way, geometry.per_image_sum(tf.abs(normal)))
        return geometry.spread(length, normal) * tf.sign(normal)
    length = tf.math.divide_no_nan(way, geometry.size(normal, "l2"))
    return geometry.spread(length, normal) * geometry.unit(normal, "l2")
