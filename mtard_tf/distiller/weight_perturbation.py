"""Adversarial weight perturbation: the training gradient is taken where the loss is worse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf
from keras import Variable

from mtard_tf.distiller.updates import snapshot
from mtard_tf.distribute.replicas import replica_sum_flat


@dataclasses.dataclass(frozen=True)
class WeightPerturbation:
    """Adversarial weight perturbation (AWP; Wu, Xia, Wang, NeurIPS 2020, arXiv 2004.05884).

    Each step first moves the weights in the direction that increases its loss, each layer in
    proportion to its norm; the training gradient is taken there and applied to the old weights.

    The official code (`csdongxian/AWP`) computes the perturbation on a copy with one step of SGD
    (only its direction matters after scaling), adds it, lets the optimizer step and subtracts it.
    Two differences: the old weights are never overwritten, so there is no rounding error, and
    weight decay acts on them, not on the perturbed ones.

    Attributes:
      gamma: size of the perturbation relative to each layer's norm; 0.005 in the official TRADES
        script.
      start: epochs before it begins; above 0 in the official script.
    """

    gamma: float
    start: float = 0

    def ascended(
        self,
        loss: Callable[[], tf.Tensor],
        weights: Sequence[Variable],
        state: Sequence[Variable],
        epoch: tf.Tensor,
    ) -> list[tf.Tensor]:
        """The perturbed weights as tensors; no variable is changed.

        Args:
          loss: this replica's share of the loss, at any positive scale.
          weights: trained variables.
          state: variables that computing the loss changes (BatchNorm statistics, balance); they are
            restored, so that the training pass changes them once.
          epoch: completed epochs.
        """
        before = snapshot(state)
        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, weights)
        for variable, old in before:
            variable.assign(old)
        gamma = tf.where(epoch >= self.start, tf.constant(self.gamma, tf.float32), 0.0)
        values = [tf.convert_to_tensor(variable.value) for variable in weights]
        return perturbed(values, replica_sum_flat(gradients), gamma)


def perturbed(
    weights: Sequence[tf.Tensor], gradients: Sequence[tf.Tensor], gamma: float | tf.Tensor
) -> list[tf.Tensor]:
    """Each layer's weights moved along its gradient, by `gamma` of its own norm.

        w <- w + gamma |w| g / |g|

    for kernels. Biases, BatchNorm's vectors (as in the official code) and layers whose gradient is
    0 are unchanged. If any gradient is not finite nothing is perturbed: the training gradient at
    the old weights then shows it.

    Args:
      weights: float tensors.
      gradients: of the loss of the *global* batch, at any positive scale.
      gamma: 0 returns the weights, to the bit.
    """
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
    moved = []
    for weight, gradient in zip(weights, gradients, strict=True):
        if weight.shape.rank < 2:
            moved.append(weight)
            continue
        scale = tf.math.divide_no_nan(gamma * tf.norm(weight), tf.norm(gradient))
        moved.append(tf.where(finite & (gamma > 0), weight + scale * gradient, weight))
    return moved
