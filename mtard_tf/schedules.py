"""Schedules: a factor as a function of the epoch, for learning rates, epsilon and balance rates.

A schedule is called with the epoch as a float (2.5 is the middle of the third epoch) and returns
the factor that multiplies the base value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

Schedule = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Constant:
    """1 at every epoch."""

    def __call__(self, epoch: tf.Tensor) -> tf.Tensor:
        return tf.ones_like(epoch)


CONSTANT = Constant()


@dataclasses.dataclass(frozen=True)
class StepDecay:
    """`factor` to the power of the number of `epochs` that have passed.

    MTARD, B-MTARD and RSLAD decay learning rate and balance rates at the end of epochs 215, 260 and
    285 of 300: epoch 215 still runs at the old value (`mtard_resnet18_cifar10.py:135-138`).

    Attributes:
      epochs: ends of the epochs, counted from 1, after which the factor applies once more.
      factor: multiplier per decay.
    """

    epochs: Sequence[float] = (215, 260, 285)
    factor: float = 0.1

    def __call__(self, epoch: tf.Tensor) -> tf.Tensor:
        over = tf.reduce_sum(
            tf.cast(epoch >= tf.constant(list(self.epochs), epoch.dtype), epoch.dtype)
        )
        return tf.cast(self.factor, epoch.dtype) ** over


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to `final` over `epochs`, then constant.

    Attributes:
      epochs: length in epochs.
      final: factor at the end.
    """

    epochs: float
    final: float = 0.0

    def __post_init__(self) -> None:
        if not self.epochs > 0:
            raise ValueError(f"Cosine.epochs is {self.epochs}; give a length above 0.")

    def __call__(self, epoch: tf.Tensor) -> tf.Tensor:
        share = tf.clip_by_value(epoch / self.epochs, 0.0, 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + tf.cos(3.141592653589793 * share))


@dataclasses.dataclass(frozen=True)
class Warmup:
    """Linear from `start` to 1 over `epochs`, times `after`.

    Small nets that are trained at a large epsilon from the first step can collapse to chance
    accuracy; an epsilon that grows over the first epochs avoids that.

    Attributes:
      epochs: length of the warm-up in epochs.
      start: factor at epoch 0.
      after: another schedule to multiply with; its epochs count from the start of training.
    """

    epochs: float
    start: float = 0.0
    after: Schedule = CONSTANT

    def __call__(self, epoch: tf.Tensor) -> tf.Tensor:
        if self.epochs <= 0:
            return self.after(epoch)
        share = tf.clip_by_value(epoch / self.epochs, 0.0, 1.0)
        return (self.start + (1 - self.start) * share) * self.after(epoch)


@dataclasses.dataclass(frozen=True)
class Cyclic:
    """One cycle: linear from 0 to 1 at `peak` of `epochs`, and back to 0; for fast training.

    The first step has factor 0, as in the code of FGSM-RS (`CIFAR10/train_fgsm.py:87`), whose
    scheduler, PyTorch's CyclicLR, also moves the momentum: that is left out.

    Attributes:
      epochs: length in epochs.
      peak: share of them after which the factor is 1, inside (0, 1).
    """

    epochs: float
    peak: float = 0.5

    def __post_init__(self) -> None:
        if not (self.epochs > 0 and 0 < self.peak < 1):
            raise ValueError(
                f"Cyclic is of epochs {self.epochs} and peak {self.peak}; give a length above 0, "
                "and a share inside (0, 1)."
            )

    def __call__(self, epoch: tf.Tensor) -> tf.Tensor:
        share = tf.clip_by_value(epoch / self.epochs, 0.0, 1.0)
        return tf.minimum(share / self.peak, (1.0 - share) / (1.0 - self.peak))


SCHEDULES: tuple[type, ...] = (Constant, StepDecay, Cosine, Warmup, Cyclic)


def epoch_of(step: tf.Tensor, steps_per_epoch: int) -> tf.Tensor:
    """Completed steps in units of epochs, float32: 0 at the first step."""
    return tf.cast(step, tf.float32) / tf.cast(steps_per_epoch, tf.float32)


class ScheduledRate(keras.optimizers.schedules.LearningRateSchedule):
    """A Keras learning-rate schedule from one of ours: `base * schedule(step / steps_per_epoch)`.

    Args:
      base: learning rate at factor 1.
      schedule: the factor as a function of the epoch.
      steps_per_epoch: steps of one epoch.
    """

    def __init__(self, base: float, schedule: Schedule, steps_per_epoch: int) -> None:
        self.base = base
        self.schedule = schedule
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return self.base * self.schedule(epoch_of(step, self.steps_per_epoch))

    def get_config(self) -> dict:
        return {
            "base": self.base,
            "schedule": repr(self.schedule),
            "steps_per_epoch": self.steps_per_epoch,
        }
