"""SPSA: gradient-free attack with gradients estimated from random differences, Linf and L2."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from mtard_tf import losses
from mtard_tf.attacks import seeds as random
from mtard_tf.attacks import shrinking_batches
from mtard_tf.attacks.attack import Attack, Problem, require_above_zero


@dataclasses.dataclass(frozen=True)
class SPSA(Attack):
    """Simultaneous perturbation stochastic approximation (Uesato et al., ICML 2018, 1802.05666).

        g = mean_v (m(x + delta v) - m(x - delta v)) / (2 delta) v,   v uniform in {-1, 1}^pixels
        x <- project(x - Adam(g))

    with m = z_label - max other (its negative when `targeted`). Only model outputs are used. An
    image leaves the batch at the step that breaks it.

    Attributes:
      num_steps: Adam steps.
      num_samples: random directions v at each step; twice as many model calls.
      delta: length of the differences in each pixel, in [0, 1] pixel units.
      learning_rate: of Adam, in [0, 1] pixel units.
      chunk: directions that are evaluated at once; bounds the memory.
      targeted: the labels are classes to reach, not to leave.

    Raises:
      ValueError: a number that is not above 0.
    """

    fixed_loss = "SPSA descends the margin"
    kind = "black_box"

    num_steps: int = 100
    num_samples: int = 128
    delta: float = 0.01
    learning_rate: float = 0.01
    chunk: int = 32
    targeted: bool = False

    def __post_init__(self) -> None:
        require_above_zero(self, "num_steps", "num_samples", "delta", "learning_rate", "chunk")

    def run(self, problem: Problem) -> tf.Tensor:
        model_fn, images, labels, threat, seeds, _ = problem
        sign = -1.0 if self.targeted else 1.0

        def score(x: tf.Tensor, own: tf.Tensor) -> tf.Tensor:  # < 0 once broken
            return sign * losses.margin(model_fn(x), own)

        def step(i: tf.Tensor, *state: tf.Tensor) -> tuple:
            perturbed, first, second, scores = state
            rows = shrinking_batches.rows_where(scores >= 0)
            x, clean, m, v, own, own_seeds = shrinking_batches.take(
                (perturbed, images, first, second, labels, random.fold(seeds, i)), rows
            )
            gradient = self._estimate(score, x, own, own_seeds)
            moved, m, v = adam(gradient, m, v, i, self.learning_rate)
            x = threat.project(x - moved, clean)
            return shrinking_batches.scatter(state, rows, (x, m, v, score(x, own)))

        zeros = tf.zeros_like(images)
        scores = score(images, labels)
        perturbed, *_ = shrinking_batches.loop(
            self.num_steps,
            step,
            (images, zeros, zeros, scores),
            going=lambda *state: tf.reduce_any(state[-1] >= 0),
        )
        return perturbed

    def _estimate(
        self, score: Callable[..., tf.Tensor], x: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor
    ) -> tf.Tensor:
        """Mean over the random directions, chunk by chunk."""
        chunk = min(self.chunk, self.num_samples)
        chunks = -(-self.num_samples // chunk)
        shape = [chunk, *x.shape[1:]]

        def add(k: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor]:
            directions = tf.sign(random.uniform(random.fold(seeds, k), shape) - 0.5)
            # The rest of the last chunk does not count.
            left = tf.minimum(chunk, self.num_samples - k * chunk)
            use = tf.cast(tf.range(chunk) < left, tf.float32)
            offsets = self.delta * tf.concat([directions, -directions], axis=1)
            around = tf.reshape(x[:, None] + offsets, [-1, *x.shape[1:]])
            values = tf.reshape(score(around, tf.repeat(labels, 2 * chunk)), [-1, 2, chunk])
            slope = (values[:, 0] - values[:, 1]) / (2 * self.delta) * use
            slope = tf.reshape(slope, [-1, chunk] + [1] * (x.shape.rank - 1))
            return (total + tf.reduce_sum(slope * directions, axis=1),)

        return shrinking_batches.loop(chunks, add, (tf.zeros_like(x),))[0] / self.num_samples


def adam(
    gradient: tf.Tensor, first: tf.Tensor, second: tf.Tensor, step: tf.Tensor, rate: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One Adam step as tensors, for optimisation inside a graph loop.

    Args:
      gradient: gradient of what is minimised.
      first: running mean of the gradient.
      second: running mean of its square.
      step: integer scalar, 0 for the first step.
      rate: learning rate.

    Returns:
      What to subtract, and the new running means.

    Source: Kingma and Ba (ICLR 2015, arXiv 1412.6980), algorithm 1, with its default constants.
    """
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * tf.square(gradient)
    count = tf.cast(step + 1, tf.float32)
    correction = tf.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    return rate * correction * first / (tf.sqrt(second) + 1e-8), first, second
