"""Teachers by path: `.keras` files and SavedModels, what they teach, and what is refused."""

from __future__ import annotations

import pathlib
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from mtard_tf import files
from mtard_tf.config import gin_files
from mtard_tf.models import model_files
from mtard_tf.models.compatibility import check_fit
from mtard_tf.models.folding import FoldedInference, _foldable
from mtard_tf.models.fused import FusedTraining
from mtard_tf.models.precision import with_precision
from mtard_tf.running import experiment_run, run_directory
from mtard_tf.testing import tiny_data

L = keras.layers


def _net(classes: int = 3, size: int | None = 8, activation=None, batch=None) -> keras.Model:
    """A convolution, BatchNorm and the mean over pixels, with other weights at each call."""
    inputs = keras.Input((size, size, 3), batch_size=batch)
    outputs = L.BatchNormalization()(L.Conv2D(4, 3, use_bias=False)(inputs))
    outputs = L.GlobalAveragePooling2D()(L.ReLU()(outputs))
    return keras.Model(inputs, L.Dense(classes, activation=activation)(outputs))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> pathlib.Path:
    """A folder with two nets, each as `.keras` and as Keras' own SavedModel."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("clean", "robust")):
        keras.utils.set_random_seed(seed)
        model = _net()
        model.save(folder / f"{name}.keras")
        model.export(str(folder / name), verbose=False)
    return folder


def test_the_digest_without_keras_is_the_same(models, tmp_path) -> None:
    damaged = tmp_path / "damaged.keras"
    damaged.write_bytes((models / "clean.keras").read_bytes()[:500])
    for path in (models / "clean.keras", models / "robust.keras", damaged):
        assert files.keras_digest(path) == model_files.file_digest(path)


def test_a_stage_with_saved_models(models, tiny_run_file, tmp_path):
    """Trained, known when finished, and not if another SavedModel has come into the folder."""
    bindings = [
        "Experiment.stages = ('student',)",
        f"student/Stage.teachers = {{'clean': '{models}/clean', 'robust': '{models}/robust'}}",
        "student/Stage.epochs = 1",
        "student/Stage.validation_attack = None",
    ]
    gin_files.parse([str(tiny_run_file)], bindings)
    run_dir = tmp_path / "run"
    (result,) = experiment_run.run(gin_files.experiment(), run_dir, gin_files.text())
    assert result["steps"] == 3 and (run_dir / "student" / "student.keras").exists()
    assert result["sources"] == {
        role: model_files.file_digest(models / role) for role in ("clean", "robust")
    }
    again = experiment_run.run(gin_files.experiment(), run_dir, gin_files.text(), only=["student"])
    assert again == [result]  # not run again
    (models / "robust").rename(models / "aside")
    shutil.copytree(models / "clean", models / "robust")
    try:
        with pytest.raises(ValueError, match="the file of the teacher robust. Undo that"):
            experiment_run.run(gin_files.experiment(), run_dir, gin_files.text(), only=["student"])
    finally:
        shutil.rmtree(models / "robust")
        (models / "aside").rename(models / "robust")


def test_the_fingerprint_of_a_folder(models, tmp_path):
    clean = model_files.file_digest(models / "clean")
    assert clean != model_files.file_digest(models / "robust")
    versions = tmp_path / "versions"
    for name, version in (("clean", "9"), ("robust", "10")):
        shutil.copytree(models / name, versions / version)
    assert model_files.file_digest(versions) == model_files.file_digest(models / "robust")
    (versions / "9" / "README.md").write_text("what is told beside it")
    assert model_files.file_digest(versions / "9") == clean


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "softmax"}, "returns probabilities (every row lies in [0, 1] and adds"),
        ({"classes": 4}, "has 4 classes and the data set 3"),
        ({"size": 12}, "takes images of (12, 12, 3) and the data set has (8, 8, 3)"),
        ({"batch": 32}, "takes batches of 32 images only; save it with a batch size of None"),
    ],
)
@pytest.mark.parametrize("form", ["x.keras", "folder/x"])
def test_a_teacher_that_does_not_fit(settings, message, form, tmp_path):
    if "batch" in settings and form == "folder/x":
        pytest.skip("Keras exports with a batch size of None")
    path = tmp_path / form
    path.parent.mkdir(exist_ok=True)
    model = _net(**settings)
    model.save(path) if path.suffix else model.export(str(path), verbose=False)
    with pytest.raises(run_directory.RunError, match=re.escape(message)) as error:
        run_directory.load_teacher(tmp_path, str(path), tiny_data())
    assert str(error.value).startswith(f"The teacher {path} does not fit. ")
    assert "\n" not in str(error.value)


def test_the_check_comes_before_any_training(tiny_run_file, tmp_path):
    _net(activation="softmax").save(tmp_path / "soft.keras")
    teachers = f"{{'clean': 'clean_teacher', 'robust': '{tmp_path}/soft.keras'}}"
    gin_files.parse([str(tiny_run_file)], [f"student/Stage.teachers = {teachers}"])
    with pytest.raises(
        run_directory.RunError, match="soft.keras does not fit. The model returns p"
    ):
        experiment_run.run(gin_files.experiment(), tmp_path / "run", gin_files.text())
    assert not (tmp_path / "run").exists()


def test_models_of_other_forms_are_refused(tmp_path):
    inputs = keras.Input((8, 8, 3))
    outputs = L.Dense(3)(L.Flatten()(inputs))
    keras.Model(inputs, {"logits": outputs}).save(tmp_path / "dict.keras")
    keras.Model(inputs, [outputs, outputs]).save(tmp_path / "two.keras")
    for name, message in (
        ("dict", "returns a dict; give a functional model that returns one tensor of logits"),
        ("two", r"returns \[\(None, 3\), \(None, 3\)\]; give a functional model from one batch"),
    ):
        with pytest.raises(run_directory.RunError, match=message):
            run_directory.load_teacher(tmp_path, str(tmp_path / f"{name}.keras"), tiny_data())


def test_names_that_are_no_teacher(tiny_run_file, tmp_path):
    for teachers, message in (
        ("'exported'", "neither an earlier stage nor a path (that ends in .keras or has a '/')"),
        ("'./exported'", "exported is missing; put it there, or name another teacher"),
        (f"'{tmp_path}/'", f"{tmp_path} is a folder without saved_model.pb; give a SavedModel"),
    ):
        binding = f"student/Stage.teachers = {{'clean': 'clean_teacher', 'robust': {teachers}}}"
        gin_files.parse([str(tiny_run_file)], [binding])
        with pytest.raises(ValueError, match=re.escape(message)):
            experiment_run.run(gin_files.experiment(), tmp_path / "run", gin_files.text())
    gin_files.parse([str(tiny_run_file)], ["student/Stage.initial = './exported'"])
    with pytest.raises(ValueError, match="Stage 'student' starts from './exported'; only a stage"):
        gin_files.experiment()


def test_what_is_not_plain_is_run_as_it_is(models):
    images = tf.constant(np.random.RandomState(0).uniform(size=(4, 8, 8, 3)), tf.float32)
    saved, plain = (model_files.load(models / name) for name in ("clean", "clean.keras"))
    assert not _foldable(saved) and _foldable(plain)
    np.testing.assert_allclose(
        FoldedInference(saved)()(images), FoldedInference(plain)()(images), atol=1e-5
    )
    assert with_precision(saved, "mixed_bfloat16") is saved
    check_fit("bmtard", _net(), {"clean": saved, "robust": _net(size=None)}, ("clean", "robust"))


class Doubled(keras.Model):
    """Functional in its layers, and more in its call."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training)


def test_a_class_of_its_own_is_not_rebuilt_from_its_layers():
    plain = _net()
    doubled = Doubled(plain.input, plain.output)
    images = np.random.RandomState(0).uniform(size=(4, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(FoldedInference(doubled)()(images), 2 * plain(images), rtol=1e-5)
    np.testing.assert_allclose(
        FusedTraining(doubled)(images), 2 * plain(images, training=True), rtol=1e-5
    )
    assert with_precision(doubled, "mixed_bfloat16") is doubled


def test_a_net_within_a_net_is_folded_around():
    inner, images = _net(classes=5), np.random.RandomState(0).uniform(size=(4, 8, 8, 3))
    inputs = keras.Input((8, 8, 3))
    scaled = L.BatchNormalization()(L.Conv2D(3, 1)(L.Rescaling(2.0)(inputs)))
    model = keras.Model(inputs, L.Dense(3)(inner(scaled)))
    for variable in model.variables:
        if "moving" in variable.path:
            variable.assign(np.random.RandomState(1).uniform(0.5, 2, variable.shape))
    images = tf.constant(images, tf.float32)
    np.testing.assert_allclose(FoldedInference(model)()(images), model(images), atol=1e-5)
