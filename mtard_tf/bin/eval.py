"""Audits a model, or the students of a run, with a suite of attacks; writes the report.

    mtard-eval --run_dir=runs/quickstart
    mtard-eval --run_dir=runs/quickstart --stage=student --suite=autoattack --examples=500
    mtard-eval --model=student.keras --dataset=fashion_mini --suite=paper --epsilon=0.1 --out=audit

    mtard-eval --run_dir=runs/quickstart --jobs=4              (4 processes; docs/scaling.md)
    mtard-eval --run_dir=runs/quickstart --strategy=mirrored   (all GPUs)

Suites: quick, paper, autoattack, defensive, defensive_brief, or a .gin file. Killed, it resumes
where it was, given the same flags. Also `python -m mtard_tf.bin.eval ...`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtard_tf import bin as binary
from mtard_tf.bin import gate
from mtard_tf.bin.request_flags import define
from mtard_tf.commands import requests

_request = define(requests.Eval)


def main(argv: Sequence[str]) -> None:
    from mtard_tf.attacks import sharding
    from mtard_tf.commands import eval

    sharding.divide_cores()
    gate.show(lambda: eval.run(_request()))


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
