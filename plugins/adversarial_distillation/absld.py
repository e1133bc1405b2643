"""ABSLD: Anti-Bias Soft Label Distillation (Zhao et al., NeurIPS 2024, arXiv 2312.05508)."""

from __future__ import annotations

import keras
import tensorflow as tf

from mtard_tf.distiller import Attack, Models, Tensors, TrainingContext, Weighed
from mtard_tf.distribute.replicas import replica_sum, replicated_state
from mtard_tf.losses import cross_entropy
from mtard_tf.plugins.adversarial_distillation.class_balance import class_temperatures
from mtard_tf.plugins.adversarial_distillation.rslad import RSLAD
from mtard_tf.schedules import epoch_of


class ABSLD(RSLAD):
    """RSLAD whose teacher has a temperature for each class, for classes equally hard to learn.

        target for S(x'): T(x) / tau_adversarial[y],   for S(x): T(x) / tau_clean[y]

    After each epoch, for both views apart, with L_c the sum over the epoch of the student's
    cross-entropy (training mode) on images of class c:

        tau_c <- clip(tau_c - rate (L_c - mean L) / max |L - mean L|, minimum, maximum)

    so the classes that are learnt worst are taught sharpest.

    Departures of the official code from this, with `official_quirks`: its two targets are views of
    one tensor that is divided in place, so both are T(x) / (tau_adversarial[y] tau_clean[y]). Left
    out: the logarithm of a softmax, as in `rslad`.

    Args:
      temperature_rate: step of the class that differs most; follows `rate_schedule`.
      minimum_temperature: lower bound.
      maximum_temperature: upper bound.
      official_quirks: what the code does.

    Source: `zhaoshiji123/ABSLD:resnet18_absld_cifar10.py:66-189`.
    """

    needs_labels = True  # the base class needs none

    def __init__(
        self,
        student: keras.Model,
        teachers: Models | None = None,
        *,
        context: TrainingContext | None = None,
        temperature_rate: float = 0.1,
        minimum_temperature: float = 0.5,
        maximum_temperature: float = 5.0,
        clean_weight: float = 1 / 6,
        log_offset: float = 1e-5,
        attack: Attack | None = None,
        attack_batch_norm: str = "inference",
        official_quirks: bool = False,
    ) -> None:
        super().__init__(
            student,
            teachers,
            context=context,
            clean_weight=clean_weight,
            log_offset=log_offset,
            attack=attack,
            attack_batch_norm=attack_batch_norm,
        )
        self.temperature_rate = temperature_rate
        self.minimum_temperature = minimum_temperature
        self.maximum_temperature = maximum_temperature
        self.official_quirks = official_quirks
        # Rows in the order of `student_views`.
        rows = len(self.student_views), student.output_shape[-1]
        self.class_temperatures = replicated_state(self, "class_temperatures", rows, "ones")
        self.class_losses = replicated_state(self, "class_losses", rows)
        # Not told from the number of steps: where the last step of an epoch is skipped, and all of
        # its state with it, the next step ends the epoch.
        self.epochs_ended = replicated_state(self, "epochs_ended", dtype="int64")

    def target(self, labels: tf.Tensor, teachers: Tensors, view: str) -> tf.Tensor:
        temperatures = tf.convert_to_tensor(self.class_temperatures.value)
        if self.official_quirks:
            own = tf.reduce_prod(temperatures, axis=0)
        else:
            own = temperatures[self.student_views.index(view)]
        return teachers["robust"] / tf.gather(own, labels)[:, tf.newaxis]

    def terms(self, labels: tf.Tensor, student: Tensors, teachers: Tensors) -> Tensors:
        # Here, because `weigh` sees no labels.
        losses = [tf.stop_gradient(cross_entropy(student[v], labels)) for v in self.student_views]
        classes = self.student.output_shape[-1]
        sums = [tf.math.unsorted_segment_sum(loss, labels, classes) for loss in losses]
        self.class_losses.assign_add(replica_sum(tf.stack(sums)))
        return super().terms(labels, student, teachers)

    def weigh(self, means: Tensors, teachers: Tensors) -> Weighed:
        done = self.steps_done.value + 1  # with this step
        epochs = done // self.steps_per_epoch
        ends = epochs > self.epochs_ended.value
        self.epochs_ended.assign(epochs)
        # The code lowers the rate before the update at the end of the epoch.
        epoch = epoch_of(done, self.steps_per_epoch)
        rate = self.temperature_rate * self.context.rate_schedule(epoch)
        losses = tf.convert_to_tensor(self.class_losses.value)
        temperatures = tf.convert_to_tensor(self.class_temperatures.value)
        moved = class_temperatures(
            temperatures,
            losses,
            rate=rate,
            minimum=self.minimum_temperature,
            maximum=self.maximum_temperature,
        )
        self.class_temperatures.assign(tf.where(ends, moved, temperatures))
        self.class_losses.assign(tf.where(ends, 0.0, losses))
        weights, logs = super().weigh(means, teachers)
        for row, view in zip(tf.unstack(temperatures), self.student_views, strict=True):
            logs[f"temperature_{view}_least"] = tf.reduce_min(row)
            logs[f"temperature_{view}_greatest"] = tf.reduce_max(row)
        return weights, logs
