"""Audits a model, or the students of a run, with a suite of attacks; writes the report.

    mtard-eval --run_dir=runs/quickstart
    mtard-eval --run_dir=runs/quickstart --stage=student --suite=autoattack --examples=500
    mtard-eval --model=student.keras --dataset=fashion_mini --suite=paper --epsilon=0.1 --out=audit

Suites: quick, paper, autoattack, defensive, defensive_brief, or a .gin file. Killed, it goes on
where it was, given the same flags. Also `python -m mtard_tf.bin.eval ...`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from mtard_tf import bin as binary
from mtard_tf.bin import paths

_FLAGS = {
    "model": paths.define("model", "A .keras file or a SavedModel folder."),
    "run_dir": paths.define("run_dir", "Directory of a run, instead of --model."),
    "stages": flags.DEFINE_multi_string("stage", [], "Stage of the run; repeatable, default all."),
    "dataset": flags.DEFINE_string("dataset", None, "Name of the data set; a run has its own."),
    "data_dir": paths.define("data_dir", "Prepared TFDS sets; default TFDS' own."),
    "split": flags.DEFINE_string("split", "test", "test, validation or train."),
    "examples": flags.DEFINE_integer("examples", None, "First so many; default all.", 1),
    "suite": flags.DEFINE_string("suite", "quick", "Name of the suite, or a .gin file."),
    "skip": flags.DEFINE_multi_string("skip", [], "Attack or measure to leave out; repeatable."),
    "epsilon": flags.DEFINE_string("epsilon", None, "Such as 0.1 or 8/255; a run has its own."),
    "norm": flags.DEFINE_string("norm", None, "linf or l2; default the run's, or linf."),
    "surrogate": paths.define("surrogate", "For transfer attacks; default the robust teacher."),
    "batch_size": flags.DEFINE_integer("batch_size", 250, "Images at a time.", 1),
    "seed": flags.DEFINE_integer(
        "seed", None, "Of the attacks; default the run's, or 0.", 0, 2**31 - 1
    ),
    "temperature": flags.DEFINE_float("temperature", None, "Of --model's training; or 1.", 1e-9),
    "share": flags.DEFINE_string(
        "share", "0/1", "I/N: only this part of the batches, and no report; see docs/scaling.md."
    ),
    "out": paths.define("out", "Folder of the report; default the run's."),
}


def main(argv: Sequence[str]) -> None:
    from mtard_tf.commands import eval

    values: dict[str, Any] = {name: flag.value for name, flag in _FLAGS.items()}
    print(eval.run(eval.Request(**values)))


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
