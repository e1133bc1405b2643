"""The Python API: the same training as a run file's, on arrays and models in memory."""

from __future__ import annotations

import json
import pathlib
import random

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

import mtard_tf as mt
from mtard_tf.auditing.suite import Suite
from mtard_tf.config import gin_files
from mtard_tf.config.gin_errors import ConfigError
from mtard_tf.exporting import proof
from mtard_tf.running.run_directory import RunError
from mtard_tf.testing import tiny_data

_TINY = dict(epochs=2, batch_size=16, learning_rate=0.01)


@pytest.fixture(scope="module")
def net() -> keras.Model:
    return mt.models.small_cnn((8, 8, 3), 3, widths=(4, 4), dense=8)


@pytest.fixture(scope="module")
def natural(net) -> keras.Model:
    return mt.train("natural", net, tiny_data(), name="clean_teacher", **_TINY)


def _equal(model: keras.Model, path: pathlib.Path) -> bool:
    known = keras.models.load_model(path, compile=False)
    pairs = zip(model.get_weights(), known.get_weights(), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


def test_weights_are_those_of_the_run_file_to_the_bit(tiny_run, net, natural) -> None:
    before = [weight.copy() for weight in net.get_weights()]
    data = tiny_data()
    assert _equal(natural, tiny_run / "clean_teacher" / "student.keras")
    constant = dict(epsilon=0.1, epsilon_schedule="constant", **_TINY)
    robust = mt.train("trades", net, data, name="robust_teacher", **constant)
    assert _equal(robust, tiny_run / "robust_teacher" / "student.keras")
    small = mt.models.small_cnn((8, 8, 3), 3, widths=(4, 4), dense=4)
    student = mt.distil(
        "bmtard",
        small,
        data,
        teachers={"clean": natural, "robust": tiny_run / "robust_teacher" / "student.keras"},
        name="student",
        **constant,
    )
    assert _equal(student, tiny_run / "student" / "student.keras")
    for old, new in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_run_directory_is_gone_on_with_and_refuses_another_experiment(tmp_path, net) -> None:
    data, folder = tiny_data(), tmp_path / "run"
    first = mt.train("natural", net, data, run_dir=folder, **_TINY)
    assert json.loads((folder / "experiment.json").read_text())["format"] == 1
    changed = (folder / "natural" / "student.keras").stat().st_mtime_ns
    random.seed(3)
    before = random.getstate()
    again = mt.train("natural", net, data, run_dir=folder, **_TINY)
    assert random.getstate() == before
    assert (folder / "natural" / "student.keras").stat().st_mtime_ns == changed
    for ours, expected in zip(again.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, expected)
    with pytest.raises(RunError, match="holds a run of another configuration.*\n(.*\n)*.*epochs"):
        mt.train("natural", net, data, run_dir=folder, **{**_TINY, "epochs": 3})
    with pytest.raises(RunError, match="natural has changed since it began: the train split"):
        mt.train("natural", net, tiny_data(train=44), run_dir=folder, **_TINY)
    with pytest.raises(ConfigError, match="holds a run that was begun from Python; repeat the cal"):
        gin_files.of_run(folder)


def test_another_teacher_in_a_run_is_refused_and_the_first_one_kept(tmp_path, natural, net) -> None:
    data, folder = tiny_data(), tmp_path / "run"
    given = dict(run_dir=folder, epsilon=0.1, **_TINY)
    mt.distil("rslad", net, data, teachers={"robust": natural}, **given)
    kept = (folder / "teachers" / "robust.keras").read_bytes()
    with pytest.raises(RunError, match="was begun with another robust teacher; choose"):
        mt.distil("rslad", net, data, teachers={"robust": net}, **given)
    assert (folder / "teachers" / "robust.keras").read_bytes() == kept


@pytest.mark.parametrize(
    ("method", "given", "line"),
    [
        ("bmtrd", {}, "Unknown distiller 'bmtrd'; did you mean 'bmtard'?"),
        ("natural", {"optimizer": "adm"}, "Unknown optimizer 'adm'; did you mean 'adam'?"),
        ("natural", {"learning_rate_schedule": "cosin"}, "did you mean 'cosine'?"),
        ("natural", {"batchsize": 4}, "batchsize'; did you mean 'batch_size'?"),
        ("trades", {"attack": "pdg"}, "Unknown attack 'pdg'"),
        ("natural", {"epsilon": 8}, "epsilon"),
        ("natural", {"initial": "gone.keras"}, "gone.keras is missing"),
        ("bmtard", {}, "BMTARD was given the teachers (); it has the roles (clean, robust)"),
        (len, {}, "give a subclass of mtard_tf.Distiller, or the name of one: absld"),
    ],
)
def test_mistakes_are_refused_in_one_line(net, method, given, line) -> None:
    with pytest.raises(ValueError) as refused:
        mt.train(method, net, tiny_data(), **{**_TINY, **given})
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_a_net_of_other_data_or_a_subclass_is_refused(net) -> None:
    wide = mt.models.small_cnn((8, 8, 1), 3, widths=(4, 4), dense=8)
    with pytest.raises(ValueError, match=r"images of \(8, 8, 1\) and has 3 outputs; the data have"):
        mt.train("natural", wide, tiny_data(), **_TINY)

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, images):
            return self.dense(keras.ops.reshape(images, (-1, 192)))

    with pytest.raises(ValueError, match="make it functional: keras.Model"):
        mt.train("natural", Own(), tiny_data(), **_TINY)


def test_an_audit_and_an_export_of_a_model_in_memory(tmp_path, natural, monkeypatch) -> None:
    gin.parse_config("Suite.probe_examples = 7")
    report = mt.audit(natural, tiny_data(), epsilon="25.5/255", skip=["pgd_sat"], examples=10)
    assert gin.query_parameter("Suite.probe_examples") == 7
    gin.clear_config()
    assert report["threat"] == {"norm": "linf", "epsilon": pytest.approx(0.1)}
    assert report["examples"] == 10
    assert 0 <= report.worst_case <= report.clean <= 1
    assert "pgd_sat" not in report["attacks"] and report.verdict in repr(report)
    assert "<td>worst case</td>" in report._repr_html_()
    monkeypatch.setattr(proof, "prove", lambda *_: {})  # what follows compares the same
    folder = mt.export(natural, tmp_path / "export", tiny_data())
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    images = tiny_data().test.images
    logits = served(images=tf.constant(images))["logits"]
    np.testing.assert_allclose(logits, natural(images / np.float32(255)), atol=1e-5)


def _group_normalised(shape=(8, 8, 3), classes: int = 3) -> keras.Model:
    """With GroupNormalization, Dropout, LayerNormalization and attention."""
    images = keras.Input(shape)
    x = keras.layers.GroupNormalization(2)(keras.layers.Conv2D(4, 3, 2)(images))
    x = keras.layers.Dropout(0.1)(keras.layers.ReLU()(x))
    x = keras.layers.LayerNormalization()(keras.layers.Reshape((9, 4))(x))
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.MultiHeadAttention(2, 2)(x, x))
    return keras.Model(images, keras.layers.Dense(classes)(x), name="grouped")


_SUITE = Suite({"pgd": mt.PGD(num_steps=2)}, probe_examples=4, factors=(1.0,))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: mt.models.vit_tiny((8, 8, 3), 3, patch=4, width=6, depth=1, dropout=0.1),
        _group_normalised,
    ],
    ids=["vit", "group norm"],
)
def test_students_without_batch_norm_are_distilled_audited_and_exported(
    tmp_path, natural, monkeypatch, make
) -> None:
    data = tiny_data()
    teachers = {"clean": natural, "robust": natural}
    settings = dict(attack=mt.PGD(num_steps=2), validation_attack=None, **_TINY)
    student = mt.distil("bmtard", make(), data, teachers=teachers, epsilon=0.1, **settings)
    assert [w.shape for w in student.get_weights()] == [w.shape for w in make().get_weights()]
    report = mt.audit(student, data, epsilon=0.1, suite=_SUITE, examples=8)
    logits = np.asarray(student(data.test.images[:8] / np.float32(255), training=False))
    assert report.clean == np.mean(logits.argmax(1) == data.test.labels[:8])
    monkeypatch.setattr(proof, "prove", lambda *_: {})
    folder = mt.export(student, tmp_path / "export", data)
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    given = served(images=tf.constant(data.test.images[:8]))["logits"]
    np.testing.assert_allclose(given, logits, atol=1e-5)


def test_callbacks_are_called_and_may_end_the_training(net, capfd) -> None:
    """And no page is spoken of, where nothing is kept."""

    class Ends(keras.callbacks.Callback):
        epochs: list[int] = []

        def on_epoch_end(self, epoch, logs=None) -> None:
            self.epochs.append(epoch)
            self.model.stop_training = True

    callback = Ends()
    mt.train("natural", net, tiny_data(), callbacks=[callback], validate_every=2, **_TINY)
    assert callback.epochs == [0]
    assert "Page" not in capfd.readouterr().err
