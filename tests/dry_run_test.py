"""What is refused before anything is trained: students that no audit takes, attacks, teachers."""

from __future__ import annotations

import dataclasses
import re
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.attacks.pgd import PGD
from mtard_tf.config import gin_files
from mtard_tf.plugins.adversarial_distillation.lbgat import LBGAT
from mtard_tf.running import dry_run, experiment_run, run_directory
from mtard_tf.threat import ThreatModel

L = keras.layers
SHAPE = (4, 4, 1)


@keras.saving.register_keras_serializable("dry_run_test")
class Forgetful(L.Layer):
    """Its get_config omits arguments of its __init__."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))

    def call(self, inputs):
        return inputs @ self.kernel

    def get_config(self):
        return super().get_config()


class Wrapped(L.Layer):
    """Has no get_config, and holds what none can tell."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


@keras.saving.register_keras_serializable("dry_run_test")
class Costly(L.Layer):
    """Adds a loss."""

    def call(self, inputs):
        self.add_loss(keras.ops.sum(inputs))
        return inputs


def _net(*layers, images=None, units=3, activation=None):
    images = keras.Input(SHAPE) if images is None else images
    x = L.Flatten()(images)
    for layer in layers:
        x = layer(x)
    return keras.Model(images, L.Dense(units, activation)(x), name="net")


def _two_outputs():
    images = keras.Input(SHAPE)
    x = L.Flatten()(images)
    return keras.Model(images, [L.Dense(3)(x), L.Dense(2)(x)], name="net")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _net(activation="sigmoid"), "M: net ends in a sigmoid; attacks and distillation need raw logits: remove it, as --from_probabilities of mtard-eval and mtard-import does."),
        (lambda: _net(activation="softmax"), "M: The model returns probabilities (every row lies in [0, 1] and adds up to 1); attacks and distillation need raw logits: remove the softmax from its last layer, as --from_probabilities of mtard-eval and mtard-import does."),
        (lambda: _net(units=4), "M: net has 4 logits and the data set 3 classes; end it with a layer of num_classes units."),
        (lambda: _net(images=keras.Input(batch_shape=(32, *SHAPE))), "M: net takes batches of 32 images only; save it with a batch size of None, which takes any."),
        (_two_outputs, "M: net takes (None, 4, 4, 1) and returns [(None, 3), (None, 2)]; give a functional model"),
        (lambda: _net(images=keras.Input((5, 5, 1))), "M: net takes images of (5, 5, 1) and the data set has (4, 4, 1);"),
        (lambda: _net(L.Lambda(lambda x: 2 * x, name="double")), "M has the Lambda layer 'double', whose code is not saved with a model; use keras.ops, or a layer class of your own."),
        (lambda: _net(Wrapped(lambda x: x, name="mine")), "M has the layer 'mine' (Wrapped), which the student's file would not give back: Object Wrapped was created by passing non-serializable argument values"),
        (lambda: _net(Forgetful(5, name="mine")), "M has the layer 'mine' (Forgetful), which the student's file would not give back: its get_config omits arguments of its __init__; give the layer a get_config with all arguments of its __init__."),
        (lambda: _net(Costly()), "M: net adds losses of its own (a regulariser or add_loss), which no distiller counts; use the optimizer's weight decay."),
        (lambda: _net(L.Activation("relu", activity_regularizer="l2")), "M: net adds losses of its own"),
        (lambda: _net(L.Dense(3, kernel_regularizer="l2")), "M: net adds losses of its own"),
        (lambda: "resnet", "M returns a str; give a function that returns a functional or Sequential Keras model."),
    ],
)  # fmt: skip
def test_students_that_no_audit_would_take(make, message):
    with pytest.raises(ValueError) as caught:
        dry_run.check_student("M", make(), SHAPE, 3)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_students_that_an_audit_takes():
    layers = [L.BatchNormalization(), L.Dropout(0.5), Forgetful(), L.Rescaling(2.0)]
    dry_run.check_student("M", _net(*layers), SHAPE, 3)
    open_size = keras.Input((None, None, 1))
    pooled = L.Dense(3)(L.GlobalAveragePooling2D()(L.Conv2D(2, 3)(open_size)))
    dry_run.check_student("M", keras.Model(open_size, pooled), SHAPE, 3)


@dataclasses.dataclass(frozen=True)
class Unhashable:
    """An attack with a field that no hash can be made of."""

    settings: dict = dataclasses.field(default_factory=dict)

    def __call__(self, model_fn, images, labels, *, threat, seeds, objective=None):
        return images


def _returns(value):
    def attack(model_fn, images, labels, *, threat, seeds, objective=None):
        return value(images)

    return attack


def _of_images_alone(images):
    return images


def _double(images):
    return tf.cast(images, tf.float64)


def _grey(images):
    return images[..., 0]


def _twice(images):
    return images, images


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (PGD, "M is <class 'mtard_tf.attacks.pgd.PGD'>, which cannot be called as attack(model_fn, images, labels, threat=, seeds=) ("),
        (_of_images_alone, "which cannot be called as attack(model_fn, images, labels, threat=, seeds=) (_of_images_alone() got an unexpected keyword"),
        (_returns(_double), "an attack returns float32 images [batch, 4, 4, 1]."),
        (_returns(_grey), "an attack returns float32 images [batch, 4, 4, 1]."),
        (_returns(_twice), "an attack returns float32 images [batch, 4, 4, 1]."),
    ],
)  # fmt: skip
def test_attacks_that_cannot_be_called(attack, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        dry_run.check_attack("M", attack, ThreatModel(), SHAPE, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("attack", [PGD(), Unhashable(), _returns(tf.identity)])
def test_attacks_that_can_be_called(attack):
    dry_run.check_attack("M", attack, ThreatModel(), SHAPE, 5)


def _softmax(image_shape, num_classes):
    images = keras.Input(image_shape)
    x = L.Dense(num_classes, "softmax")(L.Flatten()(images))
    return keras.Model(images, x, name="guide")


def _replaced(tiny_run_file, place, **changes):
    gin_files.parse([str(tiny_run_file)])
    described = gin_files.experiment()
    stages = list(described.stages)
    stages[place] = dataclasses.replace(stages[place], **changes)
    return dataclasses.replace(described, stages=stages)


def test_a_teacher_that_is_a_stage_must_return_logits(tiny_run_file, tmp_path):
    described = _replaced(tiny_run_file, 1, model=_softmax)
    with pytest.raises(ValueError, match="^robust_teacher/Stage.model: The model returns probabil"):
        experiment_run.run(described, tmp_path / "run", gin_files.text())
    assert not (tmp_path / "run").exists()


def test_a_stage_alone_is_tried_before_it_is_trained_too(tiny_run_file, tmp_path):
    described = _replaced(tiny_run_file, 0, validation_attack=_of_images_alone)
    message = "^clean_teacher/Stage.validation_attack is .* which cannot be called as attack"
    with pytest.raises(ValueError, match=message):
        experiment_run.run(described, tmp_path / "run", gin_files.text(), only=["clean_teacher"])
    # Its teachers must be there.
    with pytest.raises(run_directory.RunError, match="is missing; run the stage 'clean_teacher'"):
        experiment_run.run(described, tmp_path / "run", gin_files.text(), only=["student"])
    assert not (tmp_path / "run").exists()


def _one_argument(image_shape):
    return _softmax(image_shape, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": _one_argument}, "Stage 'clean_teacher' cannot be built: _one_argument() takes 1 positional argument but 2 were given (--debug shows where)."),
        ({"distiller": partial(LBGAT, guide=_softmax)}, "guide, which clean_teacher/Stage.distiller trains beside the student: The model returns probabilities"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be_built(tiny_run_file, changes, message):
    described = _replaced(tiny_run_file, 0, **changes)
    stages, data = described.stages[:1], described.dataset()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        dry_run.dry_run(stages, data, described.threat, None)


def test_a_dry_run_leaves_no_trace_in_a_training(tiny_run_file):
    gin_files.parse([str(tiny_run_file)])
    described = gin_files.experiment()
    data, stage = described.dataset(), described.stages[0]
    before = stage.build(data, {}, described.threat, 7).student.get_weights()
    keras.backend.clear_session()
    dry_run.dry_run(described.stages, data, described.threat, None)
    after = stage.build(data, {}, described.threat, 7).student
    for ours, expected in zip(after.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_gradients_are_accumulated_on_one_device_or_no_stage_trains(tiny_run_file, tmp_path):
    gin_files.parse([str(tiny_run_file)], ["student/Stage.gradient_accumulation_steps = 2"])
    described = gin_files.experiment()
    data, mirrored = described.dataset(), tf.distribute.MirroredStrategy(["CPU:0"])
    with pytest.raises(
        ValueError,
        match="^student/Stage.gradient_accumulation_steps is 2; Keras accumulates on one device",
    ):
        experiment_run.check(described, data, mirrored, described.stages, tmp_path)
