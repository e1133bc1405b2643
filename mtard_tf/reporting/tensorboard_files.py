"""What TensorBoard shows beside curves: hyper-parameters, and an audit's figures and images.

A stage's training and its audit are two sessions of one trial, so that the tab HParams has one row
for each stage of a run, with its settings, its last losses and its robust accuracies.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from mtard_tf import files
from mtard_tf.reporting import png

FOLDER = "tensorboard"


def hyper_parameters(stage: str, settings: Mapping[str, str]) -> dict[str, str | float]:
    """A stage's settings as HParams takes them: numbers where they are numbers.

    Args:
      stage: its name, which is one of them.
      settings: those that are not the default, as `identity` has them.
    """
    found: dict[str, str | float] = {"stage": stage}
    for name, words in settings.items():
        try:
            found[name.removeprefix("Stage.").removeprefix("Experiment.")] = float(words)
        except ValueError:
            found[name.removeprefix("Stage.").removeprefix("Experiment.")] = words
    return found


def note_settings(writer: Any, stage: str, settings: Mapping[str, str]) -> None:
    """Writes the hyper-parameters of a session.

    Args:
      writer: of TensorFlow's summaries.
      stage: name of the stage.
      settings: see `hyper_parameters`.
    """
    known = hyper_parameters(stage, settings)
    with writer.as_default(0):
        hparams.hparams(known, trial_id=f"{stage} {files.digest(sorted(known.items()))[:6]}")


def write_audit(
    folder: pathlib.Path, report: Mapping[str, Any], settings: Mapping[str, str]
) -> None:
    """Writes `tensorboard/` in an audit's folder, in place of that of an audit before it.

    Args:
      folder: with the audit's `examples.npz`.
      report: content of its `report.json`, of a stage.
      settings: those of the stage, see `hyper_parameters`.
    """
    with files.temporary(folder / FOLDER) as partial:
        writer = tf.summary.create_file_writer(str(partial))
        note_settings(writer, report["stage"], settings)
        with writer.as_default(0):
            for name, value in _figures(report).items():
                tf.summary.scalar(f"audit/{name}", value)
            with np.load(folder / "examples.npz") as arrays:
                for name, images in _panels(arrays).items():
                    tf.summary.image(
                        f"audit/{name}",
                        images,
                        max_outputs=len(images),
                        description="Clean, attacked, and the change, amplified around mid-grey.",
                    )
        writer.close()
        files.remove(folder / FOLDER)
        partial.rename(folder / FOLDER)


def _figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Name -> share of 1."""
    worst = report["worst_case"]
    attacks = {name: entry["robust_accuracy"] for name, entry in report["attacks"].items()}
    return {
        "clean": report["clean"],
        **attacks,
        "worst_case": worst["robust_accuracy"],
        "w_robust": worst["w_robust"],
    }


def _panels(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The images that fell and those that survived, each as one picture; empty ones left out."""
    if "images/clean" not in arrays:
        return {}
    survived = arrays["images/attacked_class"] == arrays["images/labels"]
    pairs = list(zip(arrays["images/clean"], arrays["images/attacked"], strict=True))
    panels = {
        name: [png.panel(*pair) for pair, alike in zip(pairs, kind, strict=True) if alike]
        for name, kind in {"fell": ~survived, "survived": survived}.items()
    }
    return {name: np.stack(images) for name, images in panels.items() if images}
