"""The student with averaged weights, as a model that is validated and saved in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.data.batches import training_batches
from mtard_tf.data.image_data import ImageData
from mtard_tf.distiller.averaging import EMA, SWA
from mtard_tf.distiller.distiller import Distiller
from mtard_tf.models.fused import FusedTraining
from mtard_tf.models.layers import batch_norms
from mtard_tf.models.precision import with_precision


def validated_student(
    distiller: Distiller, data: ImageData, **how: Any
) -> tuple[keras.Model, Callable[[], None]]:
    """The model that is validated and saved, and a function that updates it.

    It is the student, or its average where there is one, in float32 as `student.keras` is. Takes
    the arguments of `AveragedStudent`.
    """
    model: keras.Model = distiller.student
    refresh: Callable[[], None] = lambda: None  # noqa: E731
    if distiller.averages is not None:
        averaged = AveragedStudent(distiller, data, **how)
        model, refresh = averaged.model, averaged.refresh
    with how["strategy"].scope():
        validated = with_precision(model, "float32")
    if validated is model:
        return model, refresh

    def refresh_both() -> None:
        refresh()
        validated.set_weights(model.get_weights())

    return validated, refresh_both


class AveragedStudent:
    """Keeps `model` at the averages of a distiller's student, with BatchNorm statistics of its own.

    The student's running statistics are those of other weights than the averages. Those of `model`
    are re-estimated on clean training images, augmented and in the order of the first epoch, so
    that they are a function of the averages and the seed.

    Args:
      distiller: one that averages.
      data: its training split is read.
      batch_size: images at a time; only whole batches of the images asked for are read.
      seed: of the stage.
      strategy: under whose scope `model` is made.
    """

    def __init__(
        self,
        distiller: Distiller,
        data: ImageData,
        *,
        batch_size: int,
        seed: int,
        strategy: tf.distribute.Strategy,
    ) -> None:
        assert distiller.averages is not None
        self._distiller, self._data, self._seed = distiller, data, seed
        self._size, self._batches = statistics_batches(distiller.averages.rule, data, batch_size)
        with strategy.scope():
            self.model = keras.models.clone_model(distiller.student)
        self._statistics = BatchStatistics(distiller.student)

    def refresh(self) -> None:
        """Sets `model` to the current averages."""
        assert self._distiller.averages is not None
        averages = [np.asarray(v.numpy()) for v in self._distiller.averages.values]
        others = [np.asarray(v.numpy()) for v in self._distiller.student.non_trainable_variables]
        batches = training_batches(self._data, batch_size=self._size, epochs=1, seed=self._seed)
        images = (batch[0] for batch in batches.take(self._batches))
        # Before averaging begins it is the student, with its statistics.
        begun = int(self._distiller.averages.taken.numpy()) > 0
        found = self._statistics.over(images, averages, others) if begun else {}
        for variable, value in zip(self.model.trainable_variables, averages, strict=True):
            variable.assign(value)
        for i, variable in enumerate(self.model.non_trainable_variables):
            variable.assign(found.get(i, others[i]))


def statistics_batches(rule: EMA | SWA, data: ImageData, batch_size: int) -> tuple[int, int]:
    """Size and number of the batches over which BatchNorm's statistics are taken."""
    count = min(rule.batch_norm_examples or len(data.train), len(data.train))
    size = min(batch_size, count)
    return size, count // size


class BatchStatistics:
    """BatchNorm's statistics as means over batches, in training mode.

    Args:
      model: from images to logits; neither changed nor owned.
    """

    def __init__(self, model: keras.Model) -> None:
        self._twin = keras.models.clone_model(model)
        for layer in batch_norms(self._twin):
            layer.momentum = 0.0  # its running statistics are then those of the last batch
        # Place among the non-trainable variables -> variable.
        self._moving = {
            i: variable
            for i, variable in enumerate(self._twin.non_trainable_variables)
            if variable.path.rsplit("/", 1)[-1] in ("moving_mean", "moving_variance")
        }
        self._pass = tf.function(
            FusedTraining(self._twin).__call__, reduce_retracing=True, autograph=False
        )

    def over(
        self,
        batches: Iterable[tf.Tensor],
        trainable: list[np.ndarray],
        non_trainable: list[np.ndarray],
    ) -> Mapping[int, np.ndarray]:
        """The statistics with these weights, each batch by its number of images.

            statistic = sum_b n_b statistic_b / sum_b n_b

        Returns:
          Place among the model's non-trainable variables -> value; empty without BatchNorm.
        """
        if not self._moving:
            return {}
        for variables, values in (
            (self._twin.trainable_variables, trainable),
            (self._twin.non_trainable_variables, non_trainable),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        sums = {i: np.zeros(variable.shape, np.float64) for i, variable in self._moving.items()}
        images = 0
        for batch in batches:
            self._pass(batch)
            images += len(batch)
            for i, variable in self._moving.items():
                sums[i] += len(batch) * variable.numpy().astype(np.float64)
        return {i: (total / images).astype(np.float32) for i, total in sums.items()}
