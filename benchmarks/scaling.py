"""What a `bmtard` step costs as it grows, and prints Markdown tables. Use an idle machine.

    python benchmarks/scaling.py                      # all sections
    python benchmarks/scaling.py --sections=workers

Sections: `workers` (two workers of one core against one process of two), `growth` (time and memory
against batch, attack steps, teachers, replicas), `checkpoint` (what one costs every 50 steps) and
`memory` (2,000 steps and 5,000 attacked images leave memory flat). Each measurement is a process of
its own; a step's time is the median of its steps after the first three.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from small_run import ROOT, free_port
from tables import table

MEASURE = pathlib.Path(__file__).with_name("scaling_measure.py")
DEFAULTS: dict[str, Any] = {
    "strategy": "one_device", "devices": 1, "batch": 256, "attack_steps": 10, "teachers": 2,
    "steps": 12, "epochs": 1, "workers": "", "index": 0, "precision": "float32",
}  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", default="workers,growth,checkpoint,memory")
    parser.add_argument("--repeats", type=int, default=2, help="runs of a measurement; fastest")
    return parser.parse_args()


def run(args: argparse.Namespace, cores: str = "0,1", **changes: Any) -> dict[str, float]:
    """The fastest of the repeats; with two workers, the slower worker's."""
    best: dict[str, float] = {}
    for _ in range(args.repeats):
        result = once(cores, **changes)
        if not best or result["seconds"] < best["seconds"]:
            best = result
    return best


def once(cores: str, **changes: Any) -> dict[str, float]:
    count = changes.pop("processes", 1)
    setting = DEFAULTS | changes
    if count > 1:
        setting["workers"] = ",".join(f"localhost:{free_port()}" for _ in range(count))
    running = []
    for index in range(count):
        own = cores if count == 1 else cores.split(",")[index]
        environment = os.environ | {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_NUM_INTRAOP_THREADS": str(len(own.split(","))),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, str(MEASURE), json.dumps(setting | {"index": index})]
        running.append(
            subprocess.Popen(
                ["taskset", "-c", own, *command], env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    results = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    return max(results, key=lambda result: result["seconds"])


def workers(args: argparse.Namespace) -> None:
    one = run(args)["seconds"]
    two = run(args, processes=2, strategy="multi_worker")["seconds"]
    print("Batch 256, bmtard, PGD-10, two teachers, small_cnn with BatchNorm")
    rows = [["one process, two cores", one, 1.0], ["two workers, one core each", two, one / two]]
    table(["", "seconds per step", "throughput against one process"], rows)


def growth(args: argparse.Namespace) -> None:
    axes: dict[str, tuple[int, ...]] = {
        "batch": (64, 128, 256, 512),
        "attack_steps": (1, 5, 10, 20),
        "teachers": (2, 3, 4),
        "devices": (1, 2, 4),
    }
    rows = []
    for axis, values in axes.items():
        found = []
        for value in values:
            changes = {axis: value} | ({"strategy": "mirrored"} if axis == "devices" else {})
            found.append(run(args, **changes))
        for value, result in zip(values, found, strict=True):
            rows.append([axis, value, 1000 * result["seconds"], result["peak"], ""])
        spread = values[-1] - values[0]
        slopes = [(found[-1][k] - found[0][k]) / spread for k in ("seconds", "peak")]
        rows[-1][-1] = f"{1000 * slopes[0]:+.3g} ms, {slopes[1]:+.3g} MiB per unit"
    table(["", "value", "milliseconds per step", "peak MiB", "slope"], rows)


def checkpoint(args: argparse.Namespace) -> None:
    result = run(args, checkpoint=True)
    share = result["checkpoint"] / (50 * result["seconds"])
    row = [1000 * result["seconds"], 1000 * result["checkpoint"], f"{share:.2%}"]
    table(["milliseconds per step", "milliseconds per checkpoint", "share, every 50 steps"], [row])


def memory(args: argparse.Namespace) -> None:
    setting = {"batch": 32, "steps": 200, "epochs": 10, "memory": True, "attack_steps": 3}
    rows: list[list[object]] = []
    for precision in ("float32", "mixed_bfloat16"):
        result = once("0,1", precision=precision, **setting)
        for name, early, late in (
            ("training: after 200, after 2,000 steps", "early", "late"),
            ("evaluation: after 500, after 5,000 more images", "evaluated_500", "evaluated_5000"),
            ("evaluation: after those, after 5,000 more", "evaluated_5000", "again_5000"),
        ):
            growth = result[late] / result[early] - 1
            rows.append([precision, name, result[early], result[late], f"{growth:+.1%}"])
    table(["", "", "MiB", "MiB", "growth"], rows)


def main() -> None:
    args = parse()
    sections = {"workers": workers, "growth": growth, "checkpoint": checkpoint, "memory": memory}
    for name in args.sections.split(","):
        if name not in sections:
            raise SystemExit(f"--sections has {name!r}; use some of {', '.join(sections)}.")
        sections[name](args)


if __name__ == "__main__":
    main()
