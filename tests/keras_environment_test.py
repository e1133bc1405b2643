"""Keras set up for something else is refused in one line, wherever that is set."""

from __future__ import annotations

import json
import sys

import pytest

from mtard_tf import keras_environment
from mtard_tf.keras_environment import KerasEnvironmentError


@pytest.fixture
def before_keras(monkeypatch, tmp_path):
    """As before Keras is imported, with a keras.json that a test may fill."""
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return lambda **settings: (tmp_path / "keras.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("setting", "value", "needed"),
    [
        ("image_data_format", "channels_first", "channels_last"),
        ("floatx", "float64", "float32"),
        ("backend", "jax", "tensorflow"),
    ],
)
def test_a_setting_of_the_file_is_refused(before_keras, tmp_path, setting, value, needed):
    before_keras(**{setting: value})
    with pytest.raises(KerasEnvironmentError) as caught:
        keras_environment.check()
    assert str(caught.value).startswith(
        f"Keras' {setting} is {value!r} ({tmp_path}/keras.json); mtard_tf needs {needed!r}: change"
    )


def test_the_variable_overrules_the_file(before_keras, monkeypatch):
    before_keras(backend="jax")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    keras_environment.check()
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(KerasEnvironmentError) as caught:
        keras_environment.check()
    assert str(caught.value) == (
        "Keras' backend is 'torch' (KERAS_BACKEND); mtard_tf needs 'tensorflow': change it there, "
        "or set KERAS_BACKEND=tensorflow."
    )


@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_no_file_or_one_that_keras_passes_over(before_keras, tmp_path, content):
    if content is not None:
        (tmp_path / "keras.json").write_text(content)
    keras_environment.check()


def test_a_cap_on_epochs_is_refused(monkeypatch):
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "1")
    with pytest.raises(KerasEnvironmentError, match="^KERAS_MAX_EPOCHS is '1' in the environment"):
        keras_environment.check()


def test_what_is_set_in_the_process_counts(monkeypatch):
    import keras

    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(KerasEnvironmentError, match="set in this process"):
        keras_environment.check()
