"""Checks that Keras' settings in this environment are those that this package needs."""

from __future__ import annotations

import json
import os
import pathlib
import sys

# Setting -> required value, which is Keras' default.
_NEEDED = {"backend": "tensorflow", "image_data_format": "channels_last", "floatx": "float32"}
# These limit every `fit` of Keras; a stage would end early.
_CAPS = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")


class KerasEnvironmentError(ValueError):
    """Keras is configured differently than this package needs. The message is one line."""


def check() -> None:
    """Refuses another backend, image layout or float type than this package needs.

    If Keras is not imported yet, its configuration file and environment variables are read as Keras
    will read them: another backend may not be installed.

    Raises:
      KerasEnvironmentError: names the setting and its origin.
    """
    for name in _CAPS:
        if name in os.environ:
            raise KerasEnvironmentError(
                f"{name} is {os.environ[name]!r} in the environment, which ends every training "
                "early; unset it."
            )
    for name, (value, origin) in settings().items():
        if value != _NEEDED[name]:
            raise KerasEnvironmentError(
                f"Keras' {name} is {value!r} ({origin}); mtard_tf needs {_NEEDED[name]!r}: change "
                f"it there{', or set KERAS_BACKEND=tensorflow' if name == 'backend' else ''}."
            )


def settings() -> dict[str, tuple[str, str]]:
    """Keras' settings: name -> (value, origin)."""
    keras = sys.modules.get("keras")
    config = getattr(keras, "config", None)  # absent while Keras is being imported
    if config is not None:
        return {name: (getattr(config, name)(), "set in this process") for name in _NEEDED}
    path = _folder() / "keras.json"
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        read = {}  # Keras ignores a file that it cannot read
    if not isinstance(read, dict):
        read = {}
    found = {name: (read.get(name, needed), str(path)) for name, needed in _NEEDED.items()}
    if os.environ.get("KERAS_BACKEND"):
        found["backend"] = os.environ["KERAS_BACKEND"], "KERAS_BACKEND"
    return found


def _folder() -> pathlib.Path:
    if "KERAS_HOME" in os.environ:
        return pathlib.Path(os.environ["KERAS_HOME"])
    home = os.path.expanduser("~")
    return pathlib.Path(home if os.access(home, os.W_OK) else "/tmp", ".keras")
