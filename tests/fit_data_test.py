"""A distiller under Keras' own `fit`: what it is given is looked at, and Keras saves what it is."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf.distiller.context import TrainingContext
from mtard_tf.plugins.adversarial_training.natural import Natural
from mtard_tf.plugins.multi_teacher.mtard import MTARD
from mtard_tf.schedules import Warmup
from mtard_tf.threat import ThreatModel


def _net():
    images = keras.Input((4, 4, 1))
    return keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(images)))


def _distiller(metrics=None, **given):
    distiller = Natural(_net(), context=TrainingContext(ThreatModel(epsilon=0.1), **given))
    distiller.compile(optimizer="sgd", jit_compile=False, metrics=metrics)
    return distiller


def _arrays(scale=1.0, dtype="float32"):
    random = np.random.RandomState(0)
    images = (random.rand(8, 4, 4, 1) * scale).astype(dtype)
    return images, random.randint(0, 3, 8).astype("int32"), np.arange(8)


def _batches(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(2)


def _fit(distiller, data, **settings):
    return distiller.fit(data, verbose=0, shuffle=False, **settings)


def test_an_epoch_is_that_of_fit():
    distiller = _distiller(epsilon_schedule=Warmup(2))
    _fit(distiller, _batches(*_arrays()), epochs=1)
    assert distiller.steps_per_epoch == 4
    assert float(distiller.epoch) == pytest.approx(1)
    assert float(distiller.context.threat_at(distiller.epoch).epsilon) == pytest.approx(0.05)
    _fit(distiller, _batches(*_arrays()).repeat(), epochs=1, steps_per_epoch=2)
    assert distiller.steps_per_epoch == 2
    told = _distiller(steps_per_epoch=7)
    _fit(told, _batches(*_arrays()))
    assert told.steps_per_epoch == 7


def test_an_epoch_of_unknown_length_is_refused():
    endless = _batches(*_arrays()).repeat()
    with pytest.raises(ValueError, match="^Natural.fit cannot tell how many steps an epoch has"):
        _fit(_distiller(), endless)


IMAGES, LABELS, IDS = _arrays()
BOX = "give float32 in [0, 1] (uint8 divided by 255)."


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (_arrays(255.0), "images run from {low} to {high}; " + BOX),
        (_arrays(255.0, "uint8"), f"images are uint8; {BOX}"),
        ((IMAGES - 0.5, LABELS, IDS), "images run from {low} to {high}; " + BOX),
        ((IMAGES * np.nan, LABELS, IDS), f"images run from nan to nan; {BOX}"),
        (
            (IMAGES[:, :3], LABELS, IDS),
            "images have shape (3, 4, 1); the student takes (4, 4, 1).",
        ),
        (
            (IMAGES, np.eye(3)[LABELS], IDS),
            "labels are float64 of shape (2, 3); give one integer for each of 2 images.",
        ),
        (
            (IMAGES, LABELS + 3, IDS),
            "labels run from 3 to 4; the student has 3 classes, 0 to 2.",
        ),
        (
            (IMAGES, LABELS, np.ones(8, np.float32)),
            "ids are float32 of shape (2,); give one integer for each of 2 images.",
        ),
        ((IMAGES,), "batches have one part; give (images, labels) or (images, labels, ids)."),
    ],
)
def test_what_a_step_cannot_take_is_refused_before_the_first(arrays, message):
    distiller = _distiller()
    with pytest.raises(ValueError) as caught:
        _fit(distiller, _batches(*arrays))
    assert distiller.step == 0
    low, high = (f"{bound(arrays[0][:2]):.3g}" for bound in (np.min, np.max))
    assert str(caught.value) == f"Natural.fit: {message}".format(low=low, high=high)


def test_images_and_labels_are_enough():
    teachers = {"clean": _net(), "robust": _net()}
    distiller = MTARD(_net(), teachers, context=TrainingContext(ThreatModel(epsilon=0.1)))
    distiller.compile(optimizer="sgd", jit_compile=False)
    history = distiller.fit(IMAGES, LABELS, batch_size=2, epochs=1, verbose=0).history
    assert distiller.step == 4
    np.testing.assert_array_less(np.abs(history["loss"]), np.inf)


def test_keras_saves_restores_and_validates(tmp_path):
    distiller = _distiller(["accuracy"])
    paths = tmp_path / "best.weights.h5", tmp_path / "end.weights.h5"
    history = _fit(
        distiller,
        _batches(*_arrays()),
        epochs=2,
        validation_data=_batches(*_arrays()),
        callbacks=[
            keras.callbacks.ModelCheckpoint(paths[0], "val_accuracy", save_weights_only=True),
            keras.callbacks.ModelCheckpoint(tmp_path / "student.keras"),
            keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False),
        ],
    ).history
    right = np.argmax(distiller.student(IMAGES), axis=1) == LABELS
    assert history["val_accuracy"][-1] == pytest.approx(right.mean())
    distiller.save_weights(paths[1])
    student = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(student(IMAGES), distiller.student(IMAGES))
    for path in paths:
        again = _distiller()
        again.load_weights(path)
        for ours, theirs in zip(again.student.weights, distiller.student.weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert again.step == 8
    resumed = _distiller(["accuracy"])
    restore = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    _fit(resumed, _batches(*_arrays()), epochs=3, callbacks=[restore])
    assert resumed.step == 12


def test_validation_without_a_metric_is_refused():
    with pytest.raises(ValueError) as caught:
        _fit(_distiller(), _batches(*_arrays()), validation_data=_batches(*_arrays()))
    assert str(caught.value) == (
        "Natural.fit was given validation data and compile() no metric to measure on it; write "
        "compile(..., metrics=['accuracy']), or leave it out."
    )
