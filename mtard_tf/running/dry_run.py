"""Builds every stage before any is trained, so that a mistake in a later one is found at once."""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mtard_tf import registry
from mtard_tf.attacks.seeds import image_seeds
from mtard_tf.auditing.compiled import last_line
from mtard_tf.data.extra import Extra
from mtard_tf.data.image_data import ImageData
from mtard_tf.experiment import stage_checks
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.global_state import fresh_names
from mtard_tf.models.model_files import EvaluationError, check_classes, check_logits, check_shapes
from mtard_tf.running.extra_images import check_labels
from mtard_tf.running.run_directory import load_student, load_teacher
from mtard_tf.running.stage_sources import check_start
from mtard_tf.threat import ThreatModel


def dry_run(
    stages: Sequence[Stage],
    data: ImageData,
    threat: ThreatModel,
    run_dir: pathlib.Path,
    extras: Mapping[str, Extra] | None = None,
) -> None:
    """Builds the stages, tries their students and attacks on two images, and forgets them.

    Args:
      stages: in order; what they learn from is among them, finished in `run_dir`, or a file.
      data: only its shapes count, and those of teachers by path are held against its images.
      threat: of the experiment.
      run_dir: of the run.
      extras: stage -> extra images.

    Raises:
      ValueError: whatever a part of a stage refuses; a student that no audit would take, or that
        its file would not give back; an attack that cannot be called.
      RunError: a teacher that is not there or does not fit.
    """
    with fresh_names():
        _build(stages, data, threat, run_dir, extras or {})


def _build(
    stages: Sequence[Stage],
    data: ImageData,
    threat: ThreatModel,
    run_dir: pathlib.Path,
    extras: Mapping[str, Extra],
) -> None:
    models: dict[str, Any] = {}
    for stage in stages:
        for source in stage.teachers.values():
            if source not in models:
                models[source] = load_teacher(run_dir, source, data)
        teachers = {role: models[name] for role, name in stage.teachers.items()}

        def check(student: Any, stage: Stage = stage) -> None:
            check_student(f"{stage.scope}/Stage.model", student, data.image_shape, data.num_classes)

        distiller = _built(stage, data, teachers, threat, check)
        check_labels(stage, distiller, extras.get(stage.name))
        models[stage.name] = distiller.student
        inner = getattr(distiller, "inner_attack", None)  # of a third party, perhaps none
        attacks = {
            f"{stage.scope}/Stage.validation_attack": stage.validation_attack,
            f"The attack of {stage.scope}/Stage.distiller": inner and inner.attack,
        }
        for what, attack in attacks.items():
            if attack is not None:
                check_attack(what, attack, stage.threat(threat), data.image_shape, data.num_classes)
        if stage.initial:
            start = models.get(stage.initial) or load_student(run_dir, stage.initial)
            check_start(stage, models[stage.name], start)


def _built(
    stage: Stage,
    data: ImageData,
    teachers: Mapping[str, Any],
    threat: ThreatModel,
    check: Callable[[Any], None],
) -> Any:
    """The stage's distiller; arguments that a part does not take are the user's mistake.

    Raises:
      ValueError: a part refuses its arguments, or a net beside the student returns probabilities.
    """
    try:
        distiller = stage.build(data, teachers, threat, 0, check)
    except TypeError as error:
        if "by Gin" in str(error):
            raise  # an argument that is not bound, which `config` explains
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"Stage {stage.name!r} cannot be built: {reason} (--debug shows where)."
        ) from error
    stage_checks.check_context(distiller)
    stage_checks.check_follows(stage, distiller)
    images = tf.random.stateless_uniform((2, *data.image_shape), [0, 0])
    for beside in getattr(distiller, "trained_models", ())[1:]:
        try:
            check_logits(np.asarray(tf.cast(beside(images, training=False), tf.float32)))
        except EvaluationError as error:
            raise ValueError(
                f"{beside.name}, which {stage.scope}/Stage.distiller trains beside the student: "
                f"{error}"
            ) from error
    return distiller


def check_student(what: str, student: Any, image_shape: tuple[int, ...], classes: int) -> None:
    """Refuses a student that no audit would take, or that could not be loaded again.

    Args:
      what: the binding that makes it, for the message.
      student: new, from float32 images to logits.
      image_shape: (height, width, channels) of the data.
      classes: of the data.

    Raises:
      ValueError: not one batch of images in and logits out, another number of classes,
        probabilities, losses of its own, or a layer that its file would not give back.
    """
    if not isinstance(student, keras.Model):
        raise ValueError(
            f"{what} returns a {type(student).__name__}; give a function that returns a functional "
            "or Sequential Keras model."
        )
    try:
        check_shapes(student, image_shape)
        _check_classes(student, classes)
        images = tf.random.stateless_uniform((2, *image_shape), [0, 0])
        student(images, training=True)
        _check_losses(student)
        check_logits(np.asarray(student(images, training=False)))
    except EvaluationError as error:
        raise ValueError(f"{what}: {error}") from error
    for layer in student.layers:
        _check_layer(what, layer)


def _check_classes(student: keras.Model, classes: int) -> None:
    try:
        check_classes(student, classes)
    except EvaluationError as error:
        raise EvaluationError(
            f"{student.name} has {student.output_shape[-1]} logits and the data set {classes} "
            "classes; end it with a layer of num_classes units."
        ) from error


def _check_losses(student: keras.Model) -> None:
    if student.losses:
        raise EvaluationError(
            f"{student.name} adds losses of its own (a regulariser or add_loss), which no "
            "distiller counts; use the optimizer's weight decay."
        )


def _check_layer(what: str, layer: keras.layers.Layer) -> None:
    """Refuses a layer that the student's `.keras` file would not give back as it is."""
    if isinstance(layer, keras.layers.Lambda):
        raise ValueError(
            f"{what} has the Lambda layer {layer.name!r}, whose code is not saved with a model; "
            "use keras.ops, or a layer class of your own."
        )
    try:
        config = keras.saving.serialize_keras_object(layer)
        again = keras.saving.deserialize_keras_object(config)
        reason = "its get_config omits arguments of its __init__"
        alike = [v.shape for v in again.weights] == [v.shape for v in layer.weights]
    except Exception as error:  # whatever a layer of a user's raises
        reason, alike = " ".join(str(error).split()).partition(". ")[0][:200], False
    if not alike:
        raise ValueError(
            f"{what} has the layer {layer.name!r} ({type(layer).__name__}), which the student's "
            f"file would not give back: {reason}; give the layer a get_config with all arguments "
            "of its __init__."
        )


def check_attack(
    what: str, attack: Callable, threat: ThreatModel, image_shape: tuple[int, ...], classes: int
) -> None:
    """Refuses an attack that cannot be called; traces it on a linear net and runs nothing.

    Args:
      what: the binding, for the message.
      attack: see `mtard_tf.attacks`.
      threat: ball and box.
      image_shape: (height, width, channels).
      classes: of the data.

    Raises:
      ValueError: it takes other arguments, stops, or returns anything but images of that shape.
    """
    try:
        hash(attack)
        trace: Callable = _returned
    except TypeError:
        trace = _returned.__wrapped__
    given = f"@{registry.selector(attack)}" if registry.selector(attack) else repr(attack)
    try:
        found = trace(attack, threat.norm, tuple(image_shape), classes)
    except Exception as error:  # whatever an attack of a user's raises
        reason = re.sub(r"\S*<locals>\.(tf__)?", "", last_line(error))  # names of a trace
        raise ValueError(
            f"{what} is {given}, which cannot be called as attack(model_fn, images, labels, "
            f"threat=, seeds=) ({reason}); give an attack such as @attacks.pgd()."
        ) from error
    wanted = tf.TensorShape((None, *image_shape))
    alike = tf.is_tensor(found) and found.dtype == tf.float32
    if not (alike and found.shape.is_compatible_with(wanted)):
        raise ValueError(
            f"{what} is {given}, which returns {found!r}; an attack returns float32 images "
            f"[batch, {', '.join(map(str, image_shape))}]."
        )


@functools.lru_cache(maxsize=32)  # stages share their attacks, and a trace takes a second
def _returned(attack: Callable, norm: str, image_shape: tuple[int, ...], classes: int) -> Any:
    """What an attack returns on a linear net, as the specification of it."""
    weights = tf.random.stateless_normal((int(np.prod(image_shape)), classes), [0, 0])

    def model_fn(images: tf.Tensor) -> tf.Tensor:
        return tf.reshape(images, [-1, weights.shape[0]]) @ weights

    def run(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        seeds = image_seeds(0, tf.range(tf.shape(images)[0], dtype=tf.int64))
        return attack(model_fn, images, labels, threat=ThreatModel(norm), seeds=seeds)

    images = tf.TensorSpec((None, *image_shape), tf.float32)
    traced = tf.function(run, autograph=False).get_concrete_function(
        images, tf.TensorSpec([None], tf.int32)
    )
    return traced.structured_outputs
