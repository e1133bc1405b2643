"""Runs the stages of an experiment; also `python -m mtard_tf.bin.train ...`.

    mtard-train --config=quickstart.gin --run_dir=runs/quickstart
    mtard-train --config=quickstart.gin --gin='student/Stage.epochs = 20' --run_dir=runs/longer

Finished stages are not run again; one that was cut off goes on from its last checkpoint, so the
same command is all that a scheduler repeats. Exit codes: 0 done, 1 a mistake that repeating will
not mend, 75 told to go (SIGTERM) or left by another worker: run it again; 130 Ctrl-C.

Without --config it goes on with the run that is there. --jobs=2 trains in two processes. On
several devices:

    mtard-train --strategy=mirrored --config=... --run_dir=...
    mtard-train --strategy=multi_worker --workers=HOST1:2222,HOST2:2222 --index=0 ...   (on HOST1)
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

from absl import flags

from mtard_tf import bin as binary
from mtard_tf.bin import devices, paths

_CONFIG = flags.DEFINE_multi_string("config", [], "Gin file; repeatable, later ones win.")
_GIN = flags.DEFINE_multi_string("gin", [], "Gin binding, such as student/Stage.epochs=5.")
_RUN_DIR = paths.define("run_dir", "Directory of the run.", required=True)
_JOBS = flags.DEFINE_integer("jobs", 1, "Processes, each for a stage on its share of the cores.", 1)
_ONLY = flags.DEFINE_multi_string("only", [], "Stage to run, its teachers finished; repeatable.")
_RESTART = flags.DEFINE_multi_string("restart", [], "Stage to begin anew if it is another now.")


def main(argv: Sequence[str]) -> None:
    from mtard_tf.config import gin_files
    from mtard_tf.distribute import strategies
    from mtard_tf.running import experiment_run, side_by_side

    run_dir = pathlib.Path(_RUN_DIR.value)
    described = gin_files.start_or_resume(run_dir, _CONFIG.value, _GIN.value)
    strategy = devices.strategy(described.strategy)
    run, chosen = experiment_run.run, {"only": _ONLY.value, "restart": _RESTART.value}
    if _JOBS.value > 1:
        run = functools.partial(side_by_side.run, count=_JOBS.value, options=devices.options())
    stages = run(described, run_dir, gin_files.text(), strategy=strategy, **chosen)
    if strategies.is_chief(strategy):
        for stage in stages:
            print(f"{stage['stage']}: {run_dir / stage['stage'] / 'student.keras'}")
        print(f"Next: mtard-eval --run_dir={run_dir}")


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
