"""Optimizers of the papers' code: weight decay is added to the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import keras

LearningRate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


class CoupledSGD(keras.optimizers.Optimizer):
    """SGD as in PyTorch, which all the papers use.

        g <- gradient + weight_decay * w
        m <- momentum * m + g
        w <- w - learning_rate * (g + momentum * m  if nesterov else  m)

    Keras' SGD differs in two ways: its weight decay does not enter the momentum, and its momentum
    contains the learning rate, so that for some steps after a decay the old rate still acts.

    Args:
      learning_rate: a number or a Keras schedule.
      momentum: coefficient; 0 for none.
      weight_decay: L2 coefficient for every trained variable, BatchNorm and biases included (as in
        the official code).
      nesterov: whether to use Nesterov momentum.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 2e-4,
        nesterov: bool = False,
        name: str = "coupled_sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.l2 = weight_decay
        self.nesterov = nesterov

    def build(self, variables: list) -> None:
        if self.built:
            return
        super().build(variables)
        self._momentums = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        ops = keras.ops
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype) + self.l2 * variable
        buffer = self._momentums[self._get_variable_index(variable)]
        momentum = self.momentum * buffer + gradient
        self.assign(buffer, momentum)
        update = gradient + self.momentum * momentum if self.nesterov else momentum
        self.assign_sub(variable, rate * update)

    def get_config(self) -> dict:
        config = super().get_config()
        config.update(momentum=self.momentum, weight_decay=self.l2, nesterov=self.nesterov)
        return config


def sgd(
    learning_rate: LearningRate,
    momentum: float = 0.9,
    weight_decay: float = 2e-4,
    nesterov: bool = False,
) -> keras.optimizers.Optimizer:
    """`CoupledSGD` with the settings of MTARD and RSLAD."""
    return CoupledSGD(learning_rate, momentum, weight_decay, nesterov)


def adam(
    learning_rate: LearningRate, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7
) -> keras.optimizers.Optimizer:
    """Keras' Adam without weight decay; suits small nets at a large epsilon.

    Args:
      learning_rate: a number or a Keras schedule.
      beta_1: decay of the mean of the gradients.
      beta_2: decay of the mean of their squares.
      epsilon: added to the root of the latter.
    """
    return keras.optimizers.Adam(learning_rate, beta_1, beta_2, epsilon)


OPTIMIZERS: dict[str, Callable[..., keras.optimizers.Optimizer]] = {"sgd": sgd, "adam": adam}
