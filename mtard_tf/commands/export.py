"""What the flags of `mtard-export` mean: the SavedModel of a stage, and its model card."""

from __future__ import annotations

import pathlib

from mtard_tf.commands import requests
from mtard_tf.config import gin_files
from mtard_tf.exporting import model_card, saved_model
from mtard_tf.running import experiment_run, run_directory


def run(request: requests.Export) -> str:
    """Exports a student; returns the lines to print.

    Raises:
      ValueError: there is no such stage, it is not finished, or it cannot be exported; one line.
    """
    run_dir = pathlib.Path(request.run_dir)
    described = gin_files.of_run(run_dir)
    stage = request.stage or described.stages[-1].name
    experiment_run.check_stage(described, stage)
    data, probe_images = run_directory.noted_data(run_dir, stage)
    student = run_directory.load_student(run_dir, stage)
    folder = saved_model.export(
        student,
        data["label_names"],
        run_dir / "export" / stage,
        probe_images,
        model_card.metadata(run_dir, described, stage, data, student),
    )
    return "\n".join(
        [
            f"SavedModel: {folder} (loaded by a fresh process, logits equal)",
            f"What to know of it: {folder / 'README.md'}",
            saved_model.describe(folder),
        ]
    )
