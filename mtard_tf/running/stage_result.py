"""The results of a finished stage: its student, and `stage.json`, which describes it."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import keras

from mtard_tf import files
from mtard_tf.config import canonical_text
from mtard_tf.data.image_data import ImageData
from mtard_tf.distiller.distiller import Distiller
from mtard_tf.experiment.stage import Stage
from mtard_tf.models.precision import with_precision
from mtard_tf.running.callbacks import Validation
from mtard_tf.running.run_directory import note_data


def write_result(
    folder: pathlib.Path,
    stage: Stage,
    distiller: Distiller,
    data: ImageData,
    begun: Mapping[str, Any],
    validation: Validation,
) -> None:
    """Writes `student.keras`, the operative configuration and, last, `stage.json`.

    Args:
      folder: of the stage, with the checkpoints of its validation.
      begun: `sources`, `identity`, `computed_on` and `seed` of the stage, and what `check_teachers`
        found of its teachers as `taught`, and the `extra` images or None.
    """
    selected = folder / "checkpoints" / f"{stage.select}.keras"
    chosen = keras.models.load_model(selected, compile=False)
    with files.replacing(folder / "student.keras") as temporary:
        with_precision(chosen, "float32").save(temporary)
    files.write_text(folder / "operative_config.gin", canonical_text.operative())
    result = {
        "stage": stage.name,
        "distiller": type(distiller).__name__,
        "dataset": note_data(folder, data),
        "teachers": dict(stage.teachers),
        "initial": stage.initial,
        **{key: begun[key] for key in ("sources", "identity", "computed_on")},
        "epochs": distiller.step // distiller.steps_per_epoch,
        "steps": distiller.step,
        "seed": begun["seed"],
        "selected": stage.select,
        "temperature": float(distiller.temperature),
        "best": validation.best,
        "last": validation.last,
    }
    if stage.sweep is not None:
        result["sweep"] = dict(zip(("temperature", "depth"), stage.sweep, strict=True))
    if (extra := begun["extra"]) is not None:
        share, labels = stage.extra_share, stage.extra_labels
        result["extra"] = {"images": len(extra.split), "share": share, "labels": labels}
    if begun["taught"]:
        result["teachers_validation"] = begun["taught"]
    if result["epochs"] < stage.epochs:
        result["stopped_early"] = {"planned_epochs": stage.epochs, "patience": stage.patience}
    if overfitted := validation.last.get("overfitted_in"):
        result["overfitted_in"] = overfitted
    if validation.restarted_in:
        result["restarted_in"] = validation.restarted_in
    files.write_json(folder / "stage.json", result)
