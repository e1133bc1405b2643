"""Trains and audits all stages of an experiment, and sets them side by side in one table.

    mtard-compare --config=runs/compare/quick.gin --run_dir=runs/compare --jobs=2 --baseline=trades
    mtard-compare --run_dir=runs/compare --suite=paper --examples=1000

Stages `<row>_s0`, `<row>_s1`, ... are replicates of one row. What is finished is not done again, so
the same command goes on after a kill. Without --config nothing is trained: it audits what a run
holds. Writes <run_dir>/comparison/: table.md, table.csv, table.tex, trade_off.png, comparison.json,
and for chains temperatures.md.
Also `python -m mtard_tf.bin.compare ...`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from mtard_tf import bin as binary
from mtard_tf.bin import paths

_FLAGS = {
    "run_dir": paths.define("run_dir", "Directory of the run.", required=True),
    "config": flags.DEFINE_multi_string("config", [], "Gin file; repeatable, later ones win."),
    "gin": flags.DEFINE_multi_string("gin", [], "Gin binding; repeatable."),
    "jobs": flags.DEFINE_integer(
        "jobs", 1, "Processes, each on its share of the cores; 0 only writes the table.", 0
    ),
    "suite": flags.DEFINE_string("suite", "quick", "Name of the suite, or a .gin file."),
    "skip": flags.DEFINE_multi_string("skip", [], "Attack of the suite to leave out; repeatable."),
    "examples": flags.DEFINE_integer("examples", None, "First so many; default all.", 1),
    "stages": flags.DEFINE_multi_string("stage", [], "Stage to audit; repeatable, default all."),
    "baseline": flags.DEFINE_string("baseline", None, "Row that the others are set against."),
    "attack": flags.DEFINE_string(
        "attack", "worst_case", "Attack whose accuracy the trade-off figure shows."
    ),
}


def main(argv: Sequence[str]) -> None:
    from mtard_tf.commands import compare

    values: dict[str, Any] = {name: flag.value for name, flag in _FLAGS.items()}
    print(compare.run(compare.Request(**values)))


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
