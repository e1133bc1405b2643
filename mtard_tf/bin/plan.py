"""Estimates the cost of an experiment before it is run: FLOPs, hours and memory of every stage.

    mtard-plan --config=quickstart.gin
    mtard-plan --config=quickstart.gin --check
    mtard-plan --config=quickstart.gin --tune=here.gin
    mtard-plan --config=mine.gin --throughput=20 --stand_in=robust_teacher.keras=resnet18 \\
        --image_shape=64,64,3 --classes=200 --examples=100000
    mtard-plan --config=quickstart.gin --teachers --run_dir=runs/quickstart --reference=student

Without --throughput it times the passes of each stage on this device: seconds to minutes.
Also `python -m mtard_tf.bin.plan ...`.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtard_tf import bin as binary
from mtard_tf.bin.request_flags import define
from mtard_tf.commands import requests

_request = define(requests.Plan)


def main(argv: Sequence[str]) -> None:
    from mtard_tf.commands import plan

    print(plan.run(_request()))


def run() -> None:
    binary.run(main)


if __name__ == "__main__":
    run()
