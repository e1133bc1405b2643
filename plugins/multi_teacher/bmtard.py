"""B-MTARD: Balanced Multi-Teacher Adversarial Distillation (arXiv 2306.16170, TPAMI 2024)."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Models, Tensors, TrainingContext, Weighed
from mtard_tf.distribute.replicas import global_means
from mtard_tf.losses import entropy
from mtard_tf.plugins.multi_teacher import balance
from mtard_tf.plugins.multi_teacher.mtard import MTARD


class BMTARD(MTARD):
    """MTARD with Entropy-Based Balance of the teachers' temperatures besides the loss balance.

        loss = sum_k w_k KL(softmax(T_k(x_k) / tau_k) || softmax(S(x_k))) / 10

    Temperatures divide the teachers' logits only. Order within a step, as in the official code:
    losses and entropies with the old temperatures, then the new temperatures (first used by the
    next step), then the weights from this step's losses, which weigh this step.

    Args:
      temperature_rate: step of the entropy balance; 0 keeps the temperatures fixed. 0.001 suits
        300 epochs of 391 steps; scale it up for shorter runs.
      initial_temperatures: role -> temperature; default 1.
      minimum_temperature: lower bound.
      maximum_temperature: upper bound.
      entropy_log_offset: inside the logarithm of the entropies; 1e-5 in the official code, where a
        very sure teacher's turns negative, and the sign of the entropies' ratio moves both
        temperatures up. Here their difference decides, also then. Default 0, the exact entropy.

    Source: `zhaoshiji123/MTARD-extension`, `resnet18_mtard_cifar10.py:59-172`.
    """

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        temperature_rate: float = 0.001,
        initial_temperatures: Mapping[str, float] | None = None,
        minimum_temperature: float = 1.0,
        maximum_temperature: float = 10.0,
        entropy_log_offset: float = 0.0,
        weight_rate: float = 0.025,
        balance_target: str = "pace",
        weight_step: float = 0.1,
        initial_weights: Mapping[str, float] | None = None,
        exponent: float = 1.0,
        log_offset: float = 1e-5,
        teacher_views: Mapping[str, str] | None = None,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
    ) -> None:
        super().__init__(
            student,
            teachers,
            context=context,
            weight_rate=weight_rate,
            balance_target=balance_target,
            weight_step=weight_step,
            initial_weights=initial_weights,
            exponent=exponent,
            log_offset=log_offset,
            teacher_views=teacher_views,
            attack=attack,
            attack_batch_norm=attack_batch_norm,
        )
        self.temperature_rate = temperature_rate
        self.minimum_temperature = minimum_temperature
        self.maximum_temperature = maximum_temperature
        self.entropy_log_offset = entropy_log_offset
        start = balance.start_temperatures(
            initial_temperatures, self.roles, minimum_temperature, maximum_temperature
        )
        self.temperatures = balance.state(self, "temperatures", start)

    def teacher_temperatures(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.temperatures.value)

    def weigh(self, means: Tensors, teachers: Tensors) -> Weighed:
        old = self.teacher_temperatures()
        entropies = global_means(
            [
                entropy(teachers[role], temperature=old[i], log_offset=self.entropy_log_offset)
                for i, role in enumerate(self.roles)
            ]
        )
        self.temperatures.assign(
            balance.balanced_temperatures(
                old,
                entropies,
                rate=self.temperature_rate * self.context.rate_schedule(self.epoch),
                minimum=self.minimum_temperature,
                maximum=self.maximum_temperature,
            )
        )
        weights, logs = super().weigh(means, teachers)
        for i, role in enumerate(self.roles):
            logs[f"temperature_{role}"] = self.temperatures.value[i]
            logs[f"entropy_{role}"] = entropies[i]
        return weights, logs
