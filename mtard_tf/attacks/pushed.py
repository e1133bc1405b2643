"""Pushes images past the decision boundary at which an attack stopped, for rounding and transfer.

APGD, Square, FAB and all that look for the smallest change leave an image as soon as the net gets
it wrong, and so on the boundary of its decision. Rounding to 8 bits, or another net, then brings
it back, which is no robustness: of 500 images rounded inwards, 91 of Square's came back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import geometry, gradients, levels, shrinking_batches
from mtard_tf.attacks.attack import Attack, Problem

NUM_STEPS = 10
_RELATIVE_STEP_SIZE = 0.25


@dataclasses.dataclass(frozen=True)
class Pushed(Attack):
    """An attack whose images are then pushed on, against the margin and within the ball.

    See `push`. With `on_levels` the images are of whole levels (8 bits) within the ball, see
    `levels.inside`; without steps they are the attack's own, rounded.

    Attributes:
      attack: what finds the images.
      num_steps: gradient steps of the push; 0 for none.
      on_levels: whether the images are to be of whole levels.

    Raises:
      ValueError: a number of steps below 0; when run, `on_levels` with an epsilon that is a tensor.
    """

    fixed_loss = "Pushed follows the margin"

    attack: Callable[..., tf.Tensor]
    num_steps: int = NUM_STEPS
    on_levels: bool = False

    def __post_init__(self) -> None:
        if self.num_steps < 0:
            raise ValueError(f"Pushed.num_steps is {self.num_steps}; give at least 0.")

    def run(self, problem: Problem) -> tf.Tensor:
        found = problem.solved_by(self.attack)
        return push(problem, found, self.num_steps, on_levels=self.on_levels)


def beyond(
    attack: Callable[..., tf.Tensor], *, on_levels: bool = False
) -> Callable[..., tf.Tensor]:
    """An attack fit to be tried on another net: pushed on if it stops early, else unchanged.

    Args:
      attack: any; one of another class says so in an attribute `stops_early`.
      on_levels: return images of whole levels, also of an attack that does not stop early.
    """
    early = getattr(attack, "stops_early", False)
    if not (early or on_levels):
        return attack
    return Pushed(attack, NUM_STEPS if early else 0, on_levels)


def push(
    problem: Problem,
    found: tf.Tensor,
    num_steps: int = NUM_STEPS,
    *,
    on_levels: bool = False,
) -> tf.Tensor:
    """The image of the lowest margin on a short way from those that an attack found.

        x_0 = found,   x_(k+1) = project(x_k + step_k direction(-grad m(shown(x_k))))
        step_k = epsilon / 4 (1 - k / num_steps),   m = z_label - max other

    `shown` is the image itself or, with `on_levels`, its rounding `levels.inside`, through which
    the gradient passes straight; only shown images are tried and returned, so that the last step
    is on the levels. The found images, shown, are among those tried: a margin never rises.

    Args:
      problem: net, clean images, labels and ball.
      found: an attack's images, inside the ball.
      num_steps: gradient steps; one forward pass more tries the last image. 0 only shows.
      on_levels: return images of whole levels, divided by 255.

    Returns:
      Perturbed images, float32, shaped like `found`.
    """
    model_fn, clean, labels, threat, *_ = problem
    if on_levels and threat.norm == "linf":
        threat = dataclasses.replace(threat, epsilon=levels.whole(threat) / levels.WHITE)

    def shown(x: tf.Tensor) -> tf.Tensor:
        return levels.inside(x, clean, problem.threat) / levels.WHITE if on_levels else x

    def step(i: tf.Tensor, x: tf.Tensor, best: tf.Tensor, lowest: tf.Tensor) -> tuple:
        seen = shown(x)
        slope = gradients.slope(model_fn, seen, lambda _, z: -losses.margin(z, labels))
        best, lowest = _lower(seen, -slope.loss, best, lowest)
        length = _RELATIVE_STEP_SIZE * threat.epsilon * (1.0 - tf.cast(i, tf.float32) / num_steps)
        moved = x + length * geometry.steepest(slope.gradient, threat.norm)
        return threat.project(moved, clean), best, lowest

    start = shown(found)
    if not num_steps:
        return start
    nothing = tf.fill([tf.shape(found)[0]], float("inf"))
    x, best, lowest = shrinking_batches.loop(num_steps, step, (found, start, nothing))
    seen = shown(x)
    return _lower(seen, losses.margin(model_fn(seen), labels), best, lowest)[0]


def _lower(
    seen: tf.Tensor, margins: tf.Tensor, best: tf.Tensor, lowest: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    better = margins < lowest
    return tf.where(geometry.spread(better, seen), seen, best), tf.minimum(margins, lowest)
