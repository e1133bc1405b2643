"""Writes a `.keras` file from disk to disk: `model.save` first holds all of it in memory."""

from __future__ import annotations

import datetime
import json
import pathlib
import tempfile
import zipfile

import keras


def save(model: keras.Model, path: pathlib.Path) -> None:
    """What `model.save(path)` writes, with one tensor at a time in memory beside the model's own.

    Keras writes into a buffer, which costs a copy of all weights and a second one while the buffer
    grows. A `.keras` file is a zip archive of these three members, stored as they are.

    Args:
      model: built, not compiled, of layers without files of their own.
      path: the file; its folder has room for a second copy of the weights meanwhile.
    """
    metadata = {
        "keras_version": keras.__version__,
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
    }
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as scratch:
        weights = pathlib.Path(scratch, "model.weights.h5")
        model.save_weights(weights)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps(metadata))
            archive.writestr("config.json", json.dumps(keras.saving.serialize_keras_object(model)))
            archive.write(weights, weights.name)
