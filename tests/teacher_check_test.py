"""Teachers that know nothing, or something else, are named before anybody learns from them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mtard_tf.auditing.chance import advice, at_chance, below_chance, largest_share
from mtard_tf.experiment.stage import Stage
from mtard_tf.models import twins
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.plugins.teacher_assistant.knowledge_distillation import KnowledgeDistillation
from mtard_tf.running import stage_run
from mtard_tf.running.context import RunContext
from mtard_tf.running.teacher_check import TeacherError, check_teachers
from mtard_tf.testing import tiny_data
from mtard_tf.threat import ThreatModel


def _says(order, scale=1.0):
    """A net that says the brightest channel, as another class by `order`."""
    images = keras.Input((8, 8, 3))
    means = keras.layers.GlobalAveragePooling2D()(images)
    net = keras.Model(images, keras.layers.Dense(3)(means))
    kernel = np.zeros((3, 3), np.float32)
    kernel[range(3), order] = scale
    net.layers[-1].set_weights([kernel, np.zeros(3, np.float32)])
    return net


def _check(teacher, source="./teacher.keras", precision="float32"):
    data = tiny_data(validation=90)
    stage = Stage(
        "student",
        KnowledgeDistillation,
        lambda shape, classes: _says([0, 1, 2]),
        {"teacher": source},
        epochs=1,
        precision=precision,
    )
    distiller = stage.build(data, {"teacher": teacher}, ThreatModel(), 0)
    said: list[str] = []
    return check_teachers(stage, distiller, data, said.append), said


def test_a_teacher_that_knows_is_measured():
    found, said = _check(_says([0, 1, 2]))
    known = pytest.approx({"validation_clean": 1, "examples": 90, "at_chance": False})
    assert found == {"teacher": known}
    assert said == []


def test_turned_classes_are_named_before_the_student_trains():
    found, said = _check(_says([1, 2, 0]))
    known = {"validation_clean": 0, "examples": 90, "at_chance": True}
    assert found["teacher"] == pytest.approx(known)
    assert said == [
        "teacher 'teacher' (./teacher.keras) gets 0.0% of 90 validation images right, fewer than "
        "by guessing (33.3%): its classes may be in another order than the data set's, or its "
        "images on another scale; fix the file, or name another one in Stage.teachers."
    ]


def test_a_teacher_that_names_one_class_is_said():
    found, said = _check(_says([0, 0, 0]))
    assert found["teacher"]["at_chance"] and len(said) == 1


def test_logits_beyond_half_precision_are_refused():
    found, _ = _check(_says([0, 1, 2], scale=1e6))
    assert found["teacher"]["validation_clean"] == pytest.approx(1)
    with pytest.raises(TeacherError) as caught:
        _check(_says([0, 1, 2], scale=1e6), precision="mixed_float16")
    assert str(caught.value) == (
        "student: teacher 'teacher' (./teacher.keras) returns logits that are not finite in "
        "mixed_float16 on 90 of 90 validation images; set student/Stage.precision = 'float32', or "
        "look at its weights, or name another one in Stage.teachers."
    )


def test_chance_is_the_largest_class():
    assert largest_share(np.array([0] * 97 + [1, 2, 3])) == pytest.approx(0.97)
    assert at_chance(97, 100, 0.97) and not at_chance(97, 100, 0.5)
    # 200 throws of a die with 10 sides: P(X <= 8) is 0.0013, P(X <= 7) 0.0005.
    assert below_chance(7, 200, 10) and not below_chance(8, 200, 10)


def test_advice_fits_the_cause():
    distiller = Natural(_says([0, 1, 2]))
    assert advice(distiller, ["clean"]).startswith("its teacher 'clean' is at chance too")
    assert advice(distiller).startswith("0 steps are few: give more Stage.epochs")
    distiller.steps_done.assign(100)
    assert advice(distiller) == "try another Stage.learning_rate, or @optimizers.adam"
    distiller.inner_attack = object()
    assert advice(distiller).startswith("epsilon 0.0314 may be too large for it: try a longer")


class _Stop(Exception):
    """Ends a training that has begun."""


def test_twins_of_teachers_are_held_against_them_on_training_images(tmp_path, monkeypatch):
    looked: list[int] = []
    whole = twins.equal

    def equal(model, twin, images, *options):
        looked.append(len(images))
        return whole(model, twin, images, *options)

    def stop(*_, **__):
        raise _Stop

    monkeypatch.setattr(twins, "equal", equal)
    monkeypatch.setattr(
        stage_run, "validated_student", stop
    )  # comes after the teachers' measurement

    def net(shape, classes):
        images = keras.Input(shape)
        x = keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 3)(images))
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(images, keras.layers.Dense(classes)(x))

    data = tiny_data()
    stage = Stage("student", KnowledgeDistillation, net, {"teacher": "./teacher.keras"}, epochs=1)
    teachers = {"teacher": net(data.image_shape, data.num_classes)}
    with pytest.raises(_Stop):
        stage_run.train(stage, teachers, tmp_path, RunContext(data, ThreatModel()), seed=0)
    assert looked == [twins.PROBED] * 2  # the student's, which nothing attacks, and the teacher's
