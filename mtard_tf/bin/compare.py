"""Trains and audits all stages of an experiment, and compares them in one table.

    mtard-compare --config=runs/compare/quick.gin --run_dir=runs/compare --jobs=2 --baseline=trades
    mtard-compare --run_dir=runs/compare --suite=paper --examples=1000

Stages `<row>_s0`, `<row>_s1`, ... are replicates of one row. What is finished is not done again, so
the same command resumes after a kill. Without --config nothing is trained: it audits what a run
holds. Writes <run_dir>/comparison/: index.html, table.md, table.csv, table.tex, trade_off.png,
comparison.json, and for chains temperatures.md.
Also `python -m mtard_tf.bin.compare ...`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtard_tf import bin as binary
from mtard_tf.bin import gate
from mtard_tf.bin.request_flags import define
from mtard_tf.commands import requests

_request = define(requests.Compare)


def main(argv: Sequence[str]) -> None:
    from mtard_tf.commands import compare

    gate.show(lambda: compare.run(_request()))


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
