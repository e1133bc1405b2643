"""The cost of the stages of an experiment, counted before they run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.auditing.evaluator import BATCH_SIZE
from mtard_tf.data.batches import steps_per_epoch
from mtard_tf.data.image_data import ImageData
from mtard_tf.distiller.distiller import Distiller
from mtard_tf.experiment.experiment import Experiment
from mtard_tf.experiment.stage import Stage
from mtard_tf.models import model_files
from mtard_tf.models.folding import FoldedInference
from mtard_tf.models.fused import FusedTraining
from mtard_tf.models.layers import batch_norms
from mtard_tf.planning.flops import Cost, PlanError, count
from mtard_tf.running.averaged_student import statistics_batches
from mtard_tf.threat import ThreatModel

# Parts of a training step: the student's passes (with all that is in no other part), the inner
# attack, the teachers' passes.
PARTS = ("student", "attack", "teachers")
# The part at whose throughput validation runs: nearly all its passes are the attack's.
VALIDATION = "attack"


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """The cost of one stage.

    Attributes:
      name: of the stage.
      parameters: of the student, trainable.
      epochs: passes over the training images.
      images: training images per epoch.
      batch_size: images of a full step.
      step: cost of a full step, by the parts `PARTS`.
      validations: number of validations.
      validation_flops: of one validation, assuming that the student classifies every image
        correctly (only those are attacked): an upper bound. For an averaged student it includes
        estimating BatchNorm's statistics, from the first validation on.
      memory_bytes: weights, gradients, optimizer slots, and the activations kept for the gradients
        of a step (or of a validation, if those are larger); a lower bound.
    """

    name: str
    parameters: int
    epochs: int
    images: int
    batch_size: int
    step: Cost
    validations: int
    validation_flops: float
    memory_bytes: int

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.epochs * steps_per_epoch(self.images, self.batch_size)

    @property
    def full_steps(self) -> float:
        """Steps in units of a full step: the last of an epoch is shorter."""
        return self.epochs * self.images / self.batch_size

    def flops_per_image(self, part: str) -> float:
        """FLOPs of a training step per image."""
        return self.step.flops.get(part, 0.0) / self.batch_size


@dataclasses.dataclass(frozen=True)
class Built:
    """The plan of a stage with the built models.

    Attributes:
      plan: its cost.
      stage: as the run file has it.
      distiller: untrained.
      teachers: role -> model.
    """

    plan: StagePlan
    stage: Stage
    distiller: Distiller
    teachers: Mapping[str, keras.Model]


def stages(
    experiment: Experiment, data: ImageData, files: Mapping[str, keras.Model]
) -> Iterator[Built]:
    """The stages in order, each with an untrained student.

    Args:
      experiment: its stages' teachers are earlier stages or keys of `files`.
      data: only its shapes and sizes are used.
      files: path of a `.keras` file -> model.

    Raises:
      PlanError: a step that cannot be counted.
    """
    models = dict(files)
    for stage in experiment.stages:
        teachers = {role: models[source] for role, source in stage.teachers.items()}
        distiller = stage.build(data, teachers, experiment.threat, 0)
        models[stage.name] = distiller.student
        try:
            plan = of_stage(stage, distiller, teachers, data, experiment.threat)
        except PlanError as error:
            raise PlanError(f"Stage {stage.name!r}: {error}") from error
        yield Built(plan, stage, distiller, teachers)


def of_stage(
    stage: Stage,
    distiller: Distiller,
    teachers: Mapping[str, keras.Model],
    data: ImageData,
    threat: ThreatModel,
) -> StagePlan:
    """The plan of one stage, from what it was built with.

    Raises:
      PlanError: a step that cannot be counted.
    """
    student = distiller.student
    distiller.optimizer.build(distiller.trained_variables)
    batch_size = min(stage.batch_size, len(data.train))
    step = count(
        lambda *batch: distiller.train_step(batch),
        *batch_signature(data, batch_size, distiller.cached_parts),
        parts=PARTS[1:],
        rest=PARTS[0],
    )
    validated = len(data.validation)
    if stage.validation_examples is not None:
        validated = min(validated, stage.validation_examples)
    validation, at_a_time = _validation(stage, student, data, threat, validated)
    return StagePlan(
        name=stage.name,
        parameters=model_files.parameters(student),
        epochs=stage.epochs,
        images=len(data.train),
        batch_size=batch_size,
        step=step,
        validations=-(-stage.epochs // stage.validate_every),
        validation_flops=sum(validation.flops.values()) * validated / at_a_time
        + _statistics_flops(distiller, data, batch_size),
        memory_bytes=_weight_bytes(distiller, teachers)
        + max(*step.kept_bytes.values(), *validation.kept_bytes.values()),
    )


def _statistics_flops(distiller: Distiller, data: ImageData, batch_size: int) -> float:
    """FLOPs of estimating BatchNorm's statistics for an averaged student, per validation."""
    student, averages = distiller.student, distiller.averages
    if averages is None or not batch_norms(student):
        return 0.0
    size, batches = statistics_batches(averages.rule, data, batch_size)
    forward = FusedTraining(student)
    cost = count(lambda images, labels, ids: forward(images), *batch_signature(data, size))
    return batches * sum(cost.flops.values())


def batch_signature(data: ImageData, batch_size: int, cached: int = 0) -> tuple[tf.TensorSpec, ...]:
    """Signature of a batch: images, labels, ids, and logits of `cached` teachers."""
    return (
        tf.TensorSpec([batch_size, *data.image_shape], tf.float32),
        tf.TensorSpec([batch_size], tf.int32),
        tf.TensorSpec([batch_size], tf.int64),
        *[tf.TensorSpec([batch_size, data.num_classes], tf.float32)] * cached,
    )


def _validation(
    stage: Stage, student: keras.Model, data: ImageData, threat: ThreatModel, examples: int
) -> tuple[Cost, int]:
    """Cost of one batch of `callbacks.Validation`, and its number of images."""
    at_a_time = min(BATCH_SIZE, examples)
    fold = FoldedInference(student)

    def validate(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> Any:
        logits = student(images, training=False)
        if stage.validation_attack is None:
            return logits
        # Three accuracies: clean, clean again to select the images to attack, and attacked.
        seeds = image_seeds(0, ids)
        perturbed = stage.validation_attack(fold(), images, labels, threat=threat, seeds=seeds)
        return logits, student(images, training=False), student(perturbed, training=False)

    return count(validate, *batch_signature(data, at_a_time)), at_a_time


def _weight_bytes(distiller: Distiller, teachers: Mapping[str, keras.Model]) -> int:
    """Bytes of weights, gradients, optimizer slots and averages: all that no batch size changes."""
    # The model with its twins for attacks and for training; a teacher has no twin for training.
    trained = 3 * sum(_bytes(model.variables) for model in distiller.trained_models)
    gradients = _bytes(distiller.trained_variables)
    slots = _bytes(distiller.optimizer.variables)
    if distiller.averages is not None:  # the averages, the model that holds them, and its twins
        slots += _bytes(distiller.averages.variables) + 4 * _bytes(distiller.student.variables)
    models = {id(model): model for model in teachers.values()}.values()
    return trained + gradients + slots + sum(2 * _bytes(model.variables) for model in models)


def _bytes(variables: list[keras.Variable]) -> int:
    # Of Keras, or of TensorFlow where a teacher is a SavedModel.
    return sum(
        tf.TensorShape(v.shape).num_elements() * tf.as_dtype(v.dtype).size for v in variables
    )
