"""Audits the students of a run on the test split and writes its report.

    mtard-eval --run_dir=runs/quickstart
    mtard-eval --run_dir=runs/quickstart --stage=student --examples=500

Also `python -m mtard_tf.bin.eval ...`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from mtard_tf import bin as binary

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of a finished run.", required=True)
_STAGE = flags.DEFINE_multi_string("stage", [], "Stage to evaluate; repeatable, default all.")
_EXAMPLES = flags.DEFINE_integer("examples", None, "First so many test images; default all.")


def main(argv: Sequence[str]) -> None:
    from mtard_tf import config, report

    run_dir = pathlib.Path(_RUN_DIR.value)
    experiment = config.of_run(run_dir)
    report.evaluate_run(run_dir, experiment, _STAGE.value, _EXAMPLES.value)
    print(f"Report: {run_dir / 'report' / 'report.md'}")
    print(f"Next: mtard-export --run_dir={run_dir} --stage={experiment.stages[-1].name}")


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
