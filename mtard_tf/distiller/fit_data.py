"""Keras' `fit` for a distiller: its first batch is checked, and its epochs are the schedules'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf.distiller.context import TrainingContext
from mtard_tf.distiller.keras_shims import ShimmedModel
from mtard_tf.distiller.teachers import Teachers
from mtard_tf.distribute.replicas import replicated_state
from mtard_tf.schedules import epoch_of
from mtard_tf.threat import ThreatModel

_ROUNDING = 1e-6  # what resizing and colour operations leave beyond the box
_NUMBERS = 2**12  # for the images of one step on one replica


class FitModel(ShimmedModel):
    """A Keras model whose `fit` trains a student; a subclass brings `train_step`.

    Args:
      student: from images to logits; its layers are built.
      context: names the box of the images and, where it is known, the length of an epoch.
    """

    # Logits of the student beyond the classes of the labels.
    extra_classes: int = 0
    # Whether attack or terms use the labels; if not, -1 stands for an image without one.
    needs_labels: bool = True
    # Whether `validated` looks at the accuracy under attack, which the stage must then measure.
    follows_validation: bool = False
    teachers: Teachers

    def __init__(self, student: keras.Model, context: TrainingContext) -> None:
        super().__init__()
        self.student = student
        self.context = context
        self._steps = context.steps_per_epoch
        # Not the optimizer's own count: that leaves out skipped and accumulated steps.
        self.steps_done = replicated_state(self, "steps_done", dtype="int64")
        self._fitting = self._looked = False
        self.built = True  # the student is; Keras saves and restores what is built

    @property
    def steps_per_epoch(self) -> int:
        """Length of an epoch: that of the context, else that of the last `fit`."""
        return self._steps or 1

    @property
    def step(self) -> int:
        """Steps done, outside of a `tf.function`."""
        # Not int(variable): Keras' goes wrong for one that lies on several replicas.
        return int(self.steps_done.numpy())

    @property
    def epoch(self) -> tf.Tensor:
        """Epochs done, as a float32 scalar."""
        return epoch_of(self.steps_done.value, self.steps_per_epoch)

    @property
    def trained_models(self) -> tuple[keras.Model, ...]:
        """The student first, and what is trained beside it; all are part of a checkpoint."""
        return (self.student,)

    @property
    def trained_variables(self) -> list[keras.Variable]:
        """What the optimizer moves."""
        return [v for model in self.trained_models for v in model.trainable_variables]

    @property
    def cached_parts(self) -> int:
        """How many parts a batch may have beyond (images, labels, ids): teachers' answers."""
        return len(self.teachers.cached)

    def validated(self, measured: Mapping[str, float]) -> None:
        """Called between two epochs with what a validation measured, `validation_clean`, ...

        It is the same on all workers; what a family keeps of it must be a variable of its own.
        """

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Keras' `fit`, on (images, labels[, ids]) in the threat model's box.

        Batches without ids get numbers of their own, so that each attack's start is its own. An
        epoch of the schedules is one of this call, unless the context gives its length.

        Raises:
          ValueError: a first batch that is not what a step takes, an epoch of unknown length, or
            validation without a metric.
        """
        validates = kwargs.get("validation_data") is not None or kwargs.get("validation_split")
        if validates and getattr(self, "_compile_metrics", None) is None:
            raise ValueError(
                f"{type(self).__name__}.fit was given validation data and compile() no metric to "
                "measure on it; write compile(..., metrics=['accuracy']), or leave it out."
            )
        self._fitting = True
        try:
            return super().fit(*args, **kwargs)
        finally:
            self._fitting = False

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The student's logits."""
        return self.student(inputs, training=training)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the student as a `.keras` file; `save_weights` keeps all that training needs."""
        self.student.save(filepath, *args, **kwargs)

    def test_step(self, data: Sequence[tf.Tensor]) -> dict[str, Any]:
        """The compiled metrics of the student on (clean images, labels, ...)."""
        images, labels = data[:2]
        logits = self(images, training=False)
        return self.compute_metrics(images, labels, logits)

    def _get_metrics_result_or_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        # Training updates no metric, and what `test_step` returns is over all batches so far.
        return logs

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras calls it in `fit` before all else, with the batches to come, and resets them after.
        if not self._fitting:
            return
        self._fitting = False  # what follows is its validation
        if self.context.steps_per_epoch is None:
            self._take_steps(iterator.num_batches)
        workers = tf.distribute.MultiWorkerMirroredStrategy  # one worker alone may not take a batch
        if not self._looked and not isinstance(self.distribute_strategy, workers):
            self._looked = True
            for _, _, batches in iterator:
                self._look(next(batches))
                break

    def _take_steps(self, steps: int | None) -> None:
        if not steps or steps < 0:
            raise ValueError(
                f"{type(self).__name__}.fit cannot tell how many steps an epoch has; give it "
                "steps_per_epoch=..."
            )
        if self._steps not in (None, steps):
            self.train_function = None  # it holds the old length
        self._steps = int(steps)

    def _look(self, batch: Any) -> None:
        parts = tf.nest.map_structure(_local, batch)
        if not self.needs_labels and isinstance(parts, tuple):
            parts = (parts[0], np.maximum(parts[1], 0), *parts[2:])
        classes = self.student.output_shape[-1] - self.extra_classes
        fault = batch_fault(parts, self.student.input_shape[1:], classes, self.context.threat)
        if fault is None and len(parts) not in (2, 3, 3 + self.cached_parts):
            fault = (
                f"batches have {len(parts)} parts; give (images, labels) or (images, labels, ids)"
            )
        if fault is not None:
            raise ValueError(f"{type(self).__name__}.fit: {fault}.")


def batch_fault(
    batch: Any, image_shape: Sequence[int | None], classes: int, threat: ThreatModel
) -> str | None:
    """What is wrong with a batch, and what to give instead; None where nothing is.

    Args:
      batch: (images, labels[, ids, ...]) as tensors or arrays.
      image_shape: of the student, (height, width, channels); None for any size.
      classes: labels are 0 to `classes - 1`.
      threat: images must lie in its box.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return "batches have one part; give (images, labels) or (images, labels, ids)"
    images, labels, *further = (np.asarray(part) for part in batch)
    box = f"float32 in [{threat.minimum:g}, {threat.maximum:g}] (uint8 divided by 255)"
    if images.dtype != np.float32:
        return f"images are {images.dtype}; give {box}"
    wanted = tuple(image_shape)
    fits = all(w in (None, g) for w, g in zip(wanted, images.shape[1:], strict=False))
    if images.ndim != len(wanted) + 1 or not fits:
        return f"images have shape {images.shape[1:]}; the student takes {wanted}"
    low, high = float(images.min()), float(images.max())
    if not threat.minimum - _ROUNDING <= low <= high <= threat.maximum + _ROUNDING:
        return f"images run from {low:.3g} to {high:.3g}; give {box}"
    for name, numbers in (("labels", labels), ("ids", further[0] if further else labels)):
        if numbers.dtype.kind not in "iu" or numbers.shape != images.shape[:1]:
            shape = f"{numbers.dtype} of shape {numbers.shape}"
            return f"{name} are {shape}; give one integer for each of {len(images)} images"
    if labels.min() < 0 or labels.max() >= classes:
        return (
            f"labels run from {labels.min()} to {labels.max()}; the student has {classes} classes, "
            f"0 to {classes - 1}"
        )
    return None


def with_ids(batch: Sequence[tf.Tensor], steps_done: tf.Tensor) -> Sequence[tf.Tensor]:
    """A batch of this replica with ids: its own, or numbers that no other batch has.

    Args:
      batch: (images, labels) or (images, labels, ids, ...).
      steps_done: int64 scalar.
    """
    if len(batch) > 2:
        return batch
    images, labels = batch
    context = tf.distribute.get_replica_context()
    parts, part = 1, 0
    if context is not None:
        parts, part = context.num_replicas_in_sync, context.replica_id_in_sync_group
    first = (steps_done * parts + tf.cast(part, tf.int64)) * _NUMBERS
    return images, labels, first + tf.range(tf.shape(images)[0], dtype=tf.int64)


def _local(value: Any) -> Any:
    """The first replica's part of a distributed value; any other value unchanged."""
    return value.values[0] if isinstance(value, tf.distribute.DistributedValues) else value
