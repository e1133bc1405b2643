"""An export laid out as a repository of Hugging Face's hub, ready to be pushed."""

from __future__ import annotations

import pathlib
import shutil

import keras

from mtard_tf import files
from mtard_tf.exporting.formats import ExportError

# The hub stores these by their digest, whatever their size; git needs to be told so.
_ATTRIBUTES = "".join(
    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n"
    for pattern in ("*.h5", "*.onnx", "*.pb", "*.tflite", "variables/*", "*.npz")
)
_LOADING = """
Once this folder is a repository of the hub (`hf upload NAMESPACE/NAME FOLDER .`), with Keras, as a
model from float32 images in [0, 1] to logits:

```python
import keras

model = keras.saving.load_model("hf://NAMESPACE/NAME")
```
"""
# What an audit leaves, and a reader of the repository may open.
_AUDIT = ("report.html", "report.json")


def check(folder: pathlib.Path) -> None:
    """Refuses a folder that has something in it, before anything is written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(
            f"--hub_folder={folder} exists and is not empty; name a new folder, or empty it."
        )


def lay_out(
    version: pathlib.Path, student: keras.Model, audit: pathlib.Path | None, folder: pathlib.Path
) -> None:
    """Writes the folder, whole or not at all.

    At its root lie the model card, what was exported, and `config.json`, `metadata.json` and
    `model.weights.h5`, by which `keras.saving.load_model("hf://...")` loads a repository.

    Args:
      version: what `export` wrote.
      student: the same model.
      audit: the folder of its audit, whose page and JSON come along under `audit/`; None for none.
      folder: to write; new or empty.
    """
    check(folder)
    with files.replacing(folder) as partial:
        student.save(partial, zipped=False)  # first: it refuses a SavedModel's empty `assets`
        shutil.copytree(version, partial, dirs_exist_ok=True)
        card = partial / "README.md"
        card.write_text(card.read_text("utf-8").rstrip("\n") + "\n" + _LOADING, "utf-8")
        (partial / ".gitattributes").write_text(_ATTRIBUTES, "utf-8")
        if audit is not None:
            (partial / "audit").mkdir()
            for name in _AUDIT:
                shutil.copy(audit / name, partial / "audit" / name)
