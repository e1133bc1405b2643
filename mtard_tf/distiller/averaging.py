"""Averages of a student's weights over its training: EMA and SWA."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from mtard_tf.distribute.replicas import replicated_state
from mtard_tf.models.cpu_kernels import never_empty


@dataclasses.dataclass(frozen=True)
class EMA:
    """Exponential moving average: after each update of the weights, once `start` epochs are over,

        average <- decay average + (1 - decay) w

    where the first of these updates makes the weights the average.

    Attributes:
      decay: in [0, 1).
      start: epochs before averaging begins; until then the average equals the student's weights.
      batch_norm_examples: at most this many training images for the BatchNorm statistics of the
        averaged student, computed before it is validated; None for all.

    Raises:
      ValueError: a number outside its range.
    """

    decay: float = 0.999
    start: int = 0
    batch_norm_examples: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"EMA.decay is {self.decay!r}; give a number from 0 to below 1.")
        _check(self)

    def share(self, taken: tf.Tensor) -> tf.Tensor:
        """Weight of the current parameters in the new average, after `taken` averaged steps."""
        return tf.where(taken == 0, 1.0, 1.0 - self.decay)

    def due(self, updated: tf.Tensor, ended: tf.Tensor) -> tf.Tensor:
        """Whether a step enters the average: it changed the weights, or ended an epoch."""
        return updated


@dataclasses.dataclass(frozen=True)
class SWA:
    """Stochastic weight averaging (Izmailov et al., UAI 2018, arXiv 1803.05407).

    The equal mean of the weights at the end of each epoch after the first `start`:

        average <- average + (w - average) / n

    Attributes:
      start: epochs before averaging begins; until the end of the next one the average equals the
        student's weights.
      batch_norm_examples: as EMA's.

    Raises:
      ValueError: a number outside its range.
    """

    start: int = 0
    batch_norm_examples: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    def share(self, taken: tf.Tensor) -> tf.Tensor:
        """Weight of the current parameters in the new average, after `taken` averaged steps."""
        return 1.0 / (tf.cast(taken, tf.float32) + 1.0)

    def due(self, updated: tf.Tensor, ended: tf.Tensor) -> tf.Tensor:
        """Whether a step enters the average: it changed the weights, or ended an epoch."""
        return ended


RULES: tuple[type, ...] = (EMA, SWA)


class Averages:
    """The averages of a model's trained variables, as variables of the distiller.

    They are therefore on every replica and in its checkpoints.

    Args:
      rule: EMA or SWA.
      owner: the distiller, which gets the variables.
      weights: trained variables of the student.
    """

    def __init__(self, rule: EMA | SWA, owner: keras.Model, weights: Sequence) -> None:
        self.rule, self._weights = rule, list(weights)
        self.values = [
            replicated_state(owner, f"average_{i}", w.shape, dtype=w.dtype)
            for i, w in enumerate(weights)
        ]
        self.taken = replicated_state(owner, "averages_taken", dtype="int64")

    @property
    def variables(self) -> list:
        """All variables that `update` changes."""
        return [*self.values, self.taken]

    def update(self, updated: tf.Tensor, steps_done: tf.Tensor, steps_per_epoch: int) -> None:
        """Updates the averages after a step.

        Args:
          updated: whether the step changed the weights: False if it accumulated gradients or was
            skipped.
          steps_done: including this one.
          steps_per_epoch: an epoch ends at each multiple.
        """
        started = steps_done > self.rule.start * steps_per_epoch
        ended = steps_done % steps_per_epoch == 0
        taken = tf.convert_to_tensor(self.taken.value)
        due = started & self.rule.due(updated, ended)
        # Before the first averaged step, the average equals the student's weights.
        otherwise = tf.where(taken == 0, 1.0, 0.0)
        share = tf.where(due, self.rule.share(taken), otherwise)
        for average, weight in zip(self.values, self._weights, strict=True):
            average.assign(averaged(average.value, weight.value, share))
        self.taken.assign(taken + tf.cast(due, tf.int64))


class TeachingAverage:
    """An exponential moving average of a student, from which it learns in its own training.

    The average is of all float variables, BatchNorm's statistics included, starts as the student
    and follows each update:

        average <- decay average + (1 - decay) student

    Args:
      student: its layers are built.
      owner: the distiller, which gets the variables.
      decay: in [0, 1).
    """

    def __init__(self, student: keras.Model, owner: keras.Model, decay: float) -> None:
        self._student, self._decay = student, decay
        floats = [v for v in student.variables if v.dtype.startswith("float")]
        self._values = {
            id(v): replicated_state(owner, f"teaching_average_{i}", v.shape, dtype=v.dtype)
            for i, v in enumerate(floats)
        }
        # 1 + the updates that the average has seen; 0 before the first step.
        self._followed = replicated_state(owner, "teaching_average_followed", dtype="int64")

    def follow(self, updates: tf.Tensor) -> None:
        """Follows the student's last update, once; called at the beginning of each step.

        Args:
          updates: how often the optimizer has moved the student, scalar.
        """
        updates, followed = tf.cast(updates, tf.int64), self._followed.value
        share = tf.where(updates >= followed, 1.0 - self._decay, 0.0)
        share = tf.where(followed == 0, 1.0, share)
        self._followed.assign(updates + 1)
        for variable in self._student.variables:
            if id(variable) in self._values:
                average = self._values[id(variable)]
                average.assign(averaged(average.value, variable.value, share))

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """The average's logits in inference mode, float32 `[batch, classes]`."""
        return tf.cast(never_empty(self._infer)(images), tf.float32)

    def _infer(self, images: tf.Tensor) -> tf.Tensor:
        parts = self._student.trainable_variables, self._student.non_trainable_variables
        values = [[self._values.get(id(v), v).value for v in part] for part in parts]
        return self._student.stateless_call(*values, images, training=False)[0]


def averaged(average: tf.Tensor, weight: tf.Tensor, share: float | tf.Tensor) -> tf.Tensor:
    """`(1 - share) average + share weight`: to the bit `average` at 0, `weight` at 1."""
    return (1.0 - share) * average + share * weight


def _check(rule: EMA | SWA) -> None:
    name = type(rule).__name__
    if not isinstance(rule.start, int) or rule.start < 0:
        raise ValueError(f"{name}.start is {rule.start!r}; give a whole number of epochs.")
    examples = rule.batch_norm_examples
    if examples is not None and (not isinstance(examples, int) or examples < 1):
        raise ValueError(
            f"{name}.batch_norm_examples is {examples!r}; give a whole number, at least 1, or None."
        )
