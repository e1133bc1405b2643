"""Fast gradient and projected gradient attacks, Linf and L2.

CleverHans' step (`optimize_linear`) and projection (`clip_eta`) inside one `tf.while_loop`: equal
to its `projected_gradient_descent` to the bit, with a graph whose size does not depend on the
number of steps, any start point and any objective.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf
from cleverhans.tf2.utils import optimize_linear

from mtard_tf import losses
from mtard_tf.attacks import gradients, shrinking_batches
from mtard_tf.attacks import seeds as random
from mtard_tf.attacks.attack import Attack, ModelFn, Objective, Problem, require_at_least_one
from mtard_tf.threat import ThreatModel

STARTS = ("none", "uniform", "gaussian")


@dataclasses.dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al. 2018, arXiv 1706.06083).

        x <- project(x + relative_step_size * epsilon * direction(grad objective(x)))

    with direction = sign for Linf and g / |g|_2 for L2, projected into the ball, then the box.

    Attributes:
      num_steps: gradient steps.
      relative_step_size: step size as a fraction of epsilon, so that one setting serves every
        epsilon: 0.25 is 2/255 at 8/255 (PGD-sat), 0.095625 is 0.003 at 8/255 (PGD-trades).
      start: "none", "uniform" (in the ball: Madry) or "gaussian" (`gaussian_scale` * N(0, 1),
        projected into neither ball nor box before the first gradient: TRADES, RSLAD, MTARD).
      gaussian_scale: standard deviation of the Gaussian start in [0, 1] pixel units.

    Raises:
      ValueError: an unknown start, fewer than 1 step, or a step size that is not above 0.
    """

    num_steps: int = 10
    relative_step_size: float = 0.25
    start: str = "uniform"
    gaussian_scale: float = 0.001

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ValueError(
                f"{type(self).__name__}.start is {self.start!r}; use one of {', '.join(STARTS)}."
            )
        require_steps(self)

    @property
    def kind(self) -> str:
        """A PGD of one step is "single_step", any other "gradient"."""
        return "single_step" if self.num_steps == 1 else "gradient"

    def loss(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """What is maximised without an objective, `[batch]`: the cross-entropy."""
        return losses.cross_entropy(logits, labels)

    def run(self, problem: Problem) -> tf.Tensor:
        images, threat = problem.images, problem.threat
        objective = problem.objective or (lambda _, logits: self.loss(logits, problem.labels))
        step_size = self.relative_step_size * threat.epsilon

        def step(_: tf.Tensor, perturbed: tf.Tensor) -> tuple:
            direction = gradients.slope(problem.model_fn, perturbed, objective).gradient
            moved = perturbed + optimize_linear(direction, step_size, threat.order)
            if threat.norm == "l2":  # CleverHans clips to the box before the ball, too
                moved = tf.clip_by_value(moved, threat.minimum, threat.maximum)
            return (threat.project(moved, images),)

        start = tf.stop_gradient(self._start(problem))
        return shrinking_batches.loop(self.num_steps, step, (start,))[0]

    def _start(self, problem: Problem) -> tf.Tensor:
        images, threat, seeds = problem.images, problem.threat, problem.seeds
        if self.start == "none":
            return images
        shape = images.shape[1:]
        if self.start == "gaussian":
            return images + self.gaussian_scale * random.normal(seeds, shape)
        return threat.project(images + uniform_in_ball(seeds, shape, threat), images)


class FGSM(PGD):
    """Fast gradient (sign) method (Goodfellow et al. 2015, arXiv 1412.6572): one full step.

    No random start, as in the MTARD line's evaluation (`CIARD:attack_eval.py:71-85`).
    """

    def __init__(self, start: str = "none") -> None:
        super().__init__(num_steps=1, relative_step_size=1.0, start=start)


def require_steps(attack: Attack) -> None:
    """Refuses a number of steps below 1, or a step size that is not above 0."""
    require_at_least_one(attack, "num_steps")
    size = attack.relative_step_size  # type: ignore[attr-defined]
    if not size > 0:
        raise ValueError(
            f"{type(attack).__name__}.relative_step_size is {size}; give a fraction of epsilon "
            "above 0 (0.25 is 2/255 at 8/255)."
        )


def input_gradient(model_fn: ModelFn, images: tf.Tensor, objective: Objective) -> tf.Tensor:
    """Gradient of the summed objective with respect to the images; no weight gradient is taken."""
    return gradients.slope(model_fn, images, objective).unscaled()


def uniform_in_ball(seeds: tf.Tensor, shape: tf.TensorShape, threat: ThreatModel) -> tf.Tensor:
    """Perturbations drawn uniformly from the ball of `threat`, `[batch, *shape]`."""
    if threat.norm == "linf":
        return (2.0 * random.uniform(seeds, shape) - 1.0) * threat.epsilon
    # Uniform in an L2 ball: a uniform direction, and radius epsilon * u^(1/dimension).
    direction = random.normal(seeds, shape)
    radius = random.uniform(seeds + [[0, 1 << 30]], [])
    norms = tf.norm(tf.reshape(direction, [tf.shape(seeds)[0], -1]), axis=1)
    scale = threat.epsilon * radius ** (1.0 / shape.num_elements()) / tf.maximum(norms, 1e-12)
    return direction * tf.reshape(scale, [-1] + [1] * len(shape))
