"""Runs the stages of an experiment.

    mtard-train --config=quickstart.gin --run_dir=runs/quickstart
    mtard-train --config=quickstart.gin --gin='student/Stage.epochs = 20' --run_dir=runs/longer

Finished stages are not run again. Also `python -m mtard_tf.bin.train ...`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from mtard_tf import bin as binary

_CONFIG = flags.DEFINE_multi_string("config", [], "Gin file; repeatable, later ones win.")
_GIN = flags.DEFINE_multi_string("gin", [], "Gin binding, such as student/Stage.epochs=5.")
_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the run.", required=True)


def main(argv: Sequence[str]) -> None:
    from mtard_tf import config, experiment

    config.parse(_CONFIG.value, _GIN.value)
    run_dir = pathlib.Path(_RUN_DIR.value)
    described = config.experiment()
    for stage in experiment.run(described, run_dir, config.text()):
        print(f"{stage['stage']}: {run_dir / stage['stage'] / 'student.keras'}")
    print(f"Next: mtard-eval --run_dir={run_dir}")


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
