"""Writes a stage's student as a SavedModel for TF Serving.

    mtard-export --run_dir=runs/quickstart --stage=student

Also `python -m mtard_tf.bin.export ...`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from mtard_tf import bin as binary
from mtard_tf.bin import paths

_RUN_DIR = paths.define("run_dir", "Directory of a finished run.", required=True)
_STAGE = flags.DEFINE_string("stage", None, "Stage to export; default the last.")


def main(argv: Sequence[str]) -> None:
    from mtard_tf.config import gin_files
    from mtard_tf.exporting import model_card, saved_model
    from mtard_tf.running import experiment_run, run_directory

    run_dir = pathlib.Path(_RUN_DIR.value)
    described = gin_files.of_run(run_dir)
    stage = _STAGE.value or described.stages[-1].name
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
    print(f"SavedModel: {folder} (loaded by a fresh process, logits equal)")
    print(f"What to know of it: {folder / 'README.md'}")
    print(saved_model.describe(folder))


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
