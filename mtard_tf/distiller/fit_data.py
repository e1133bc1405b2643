"""What Keras' `fit` is given from Python: looked at before the first step, and what an epoch is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mtard_tf.threat import ThreatModel

_ROUNDING = 1e-6  # what resizing and colour operations leave beyond the box
_NUMBERS = 2**12  # for the images of one step on one replica


class CheckedFit:
    """Mixed into a distiller; the attributes are its own."""

    student: Any
    threat: ThreatModel
    extra_classes: int
    cached_roles: tuple[str, ...]
    train_function: Any
    _epoch_steps: int | None
    _steps_given: bool
    distribute_strategy: Any
    _fitting = False
    _looked = False

    @property
    def steps_per_epoch(self) -> int:
        """What an epoch is: as the constructor was told, else as `fit` was."""
        return self._epoch_steps or 1

    def fit(self, *args, **kwargs):
        """Keras' `fit`, on (images, labels[, ids]) in the threat model's box.

        Batches without ids get numbers of their own, so that each attack's start is its own. An
        epoch of the schedules is one of this call, unless the constructor was told.

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
            return super().fit(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._fitting = False

    def save(self, filepath, *args, **kwargs) -> None:
        """Saves the student as a `.keras` file, which is what a training is for.

        `save_weights` keeps all that training goes on with.
        """
        self.student.save(filepath, *args, **kwargs)

    def test_step(self, data):
        """The compiled metrics of the student on (clean images, labels, ...)."""
        images, labels = data[:2]
        logits = self(images, training=False)  # type: ignore[operator]
        return self.compute_metrics(images, labels, logits)  # type: ignore[attr-defined]

    def _get_metrics_result_or_logs(self, logs):
        # Training updates no metric, and what `test_step` returns is over all batches so far.
        return logs

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        # Keras calls it in `fit` before all else, with the batches to come, and resets them after.
        if not self._fitting:
            return
        self._fitting = False  # what follows is its validation
        if not self._steps_given:
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
        if self._epoch_steps not in (None, steps):
            self.train_function = None  # it holds the old length
        self._epoch_steps = int(steps)

    def _look(self, batch: Any) -> None:
        parts = tf.nest.map_structure(_local, batch)
        classes = self.student.output_shape[-1] - self.extra_classes
        fault = batch_fault(parts, self.student.input_shape[1:], classes, self.threat)
        if fault is None and len(parts) not in (2, 3, 3 + len(self.cached_roles)):
            fault = (
                f"batches have {len(parts)} parts; give (images, labels) or (images, labels, ids)"
            )
        if fault is not None:
            raise ValueError(f"{type(self).__name__}.fit: {fault}.")


def batch_fault(
    batch: Any, image_shape: Sequence[int | None], classes: int, threat: ThreatModel
) -> str | None:
    """What is wrong with a batch, and what to give instead; None for nothing.

    Args:
      batch: (images, labels, ids, ...) as tensors or arrays; what is from ids on may be absent.
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
    """This process' part of what lies on several replicas."""
    return value.values[0] if isinstance(value, tf.distribute.DistributedValues) else value
