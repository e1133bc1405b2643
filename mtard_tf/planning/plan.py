"""What the stages of an experiment cost, counted before any of them runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.auditing.evaluator import Evaluator
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

# Of a training step: the student's passes (and whatever is in no other part), the inner attack, the
# teachers' passes.
PARTS = ("student", "attack", "teachers")
# Where validation is counted: nearly all of its passes are the attack's, forward and input
# gradient.
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
      validations: how often the student is validated.
      validation_flops: of one validation, as if the student got every image right: it attacks no
        others, so this is an upper bound. With BatchNorm's statistics of an averaged student, as
        if averaging began at once.
      memory_bytes: weights, gradients, optimizer slots, and the activations that the gradients of
        a step (or of a validation, if those are more) read; a lower bound.
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
        """Steps as if all were full: the last of an epoch has less to do."""
        return self.epochs * self.images / self.batch_size

    def flops_per_image(self, part: str) -> float:
        """FLOPs of a training step for each of its images."""
        return self.step.flops.get(part, 0.0) / self.batch_size


@dataclasses.dataclass(frozen=True)
class Built:
    """A plan, and what it was counted from.

    Attributes:
      plan: the cost.
      distiller: of the stage, untrained.
      teachers: role -> model.
    """

    plan: StagePlan
    distiller: Distiller
    teachers: Mapping[str, keras.Model]


def stages(
    experiment: Experiment, data: ImageData, files: Mapping[str, keras.Model]
) -> Iterator[Built]:
    """The stages in order, each with an untrained student.

    Args:
      experiment: its stages' teachers are earlier stages or keys of `files`.
      data: only its shapes and sizes matter.
      files: path of a `.keras` file -> model.

    Raises:
      PlanError: a step whose work its graph does not tell.
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
        yield Built(plan, distiller, teachers)


def of_stage(
    stage: Stage,
    distiller: Distiller,
    teachers: Mapping[str, keras.Model],
    data: ImageData,
    threat: ThreatModel,
) -> StagePlan:
    """The plan of one stage; arguments as it was built from.

    Raises:
      PlanError: a step whose work its graph does not tell.
    """
    student = distiller.student
    distiller.optimizer.build(distiller.trained_variables)
    batch_size = min(stage.batch_size, len(data.train))
    step = count(
        lambda *batch: distiller.train_step(batch),
        *batch_signature(data, batch_size, len(distiller.cached_roles)),
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
    """Work of BatchNorm's statistics for an averaged student, before each validation."""
    student, averages = distiller.student, distiller.averages
    if averages is None or not batch_norms(student):
        return 0.0
    size, batches = statistics_batches(averages.rule, data, batch_size)
    forward = FusedTraining(student)
    cost = count(lambda images, labels, ids: forward(images), *batch_signature(data, size))
    return batches * sum(cost.flops.values())


def batch_signature(data: ImageData, batch_size: int, cached: int = 0) -> tuple[tf.TensorSpec, ...]:
    """Images, labels, ids and `cached` teachers' logits of a batch, as a step takes them."""
    return (
        tf.TensorSpec([batch_size, *data.image_shape], tf.float32),
        tf.TensorSpec([batch_size], tf.int32),
        tf.TensorSpec([batch_size], tf.int64),
        *[tf.TensorSpec([batch_size, data.num_classes], tf.float32)] * cached,
    )


def _validation(
    stage: Stage, student: keras.Model, data: ImageData, threat: ThreatModel, examples: int
) -> tuple[Cost, int]:
    """Cost of one batch of `callbacks.Validation`, and the images in it."""
    evaluator = Evaluator(student, threat)
    at_a_time = min(evaluator.batch_size, examples)
    fold = FoldedInference(student)

    def validate(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> Any:
        logits = student(images, training=False)
        if stage.validation_attack is None:
            return logits
        # An accuracy each: clean, clean again to choose what is attacked, and attacked.
        seeds = image_seeds(evaluator.seed, ids)
        perturbed = stage.validation_attack(fold(), images, labels, threat=threat, seeds=seeds)
        return logits, student(images, training=False), student(perturbed, training=False)

    return count(validate, *batch_signature(data, at_a_time)), at_a_time


def _weight_bytes(distiller: Distiller, teachers: Mapping[str, keras.Model]) -> int:
    """Everything whose size no batch changes."""
    # The model, its twin for attacks and its twin for training; a teacher has the first two.
    trained = 3 * sum(_bytes(model.variables) for model in distiller.trained_models)
    gradients = _bytes(distiller.trained_variables)
    slots = _bytes(distiller.optimizer.variables)
    if distiller.averages is not None:  # the averages, the model that has them, and its twins
        slots += _bytes(distiller.averages.variables) + 4 * _bytes(distiller.student.variables)
    models = {id(model): model for model in teachers.values()}.values()
    return trained + gradients + slots + sum(2 * _bytes(model.variables) for model in models)


def _bytes(variables: list[keras.Variable]) -> int:
    # Of Keras, or of TensorFlow where a teacher is a SavedModel.
    return sum(
        tf.TensorShape(v.shape).num_elements() * tf.as_dtype(v.dtype).size for v in variables
    )
