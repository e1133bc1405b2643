"""W-Robust in float32, with the attack in bfloat16, and all in bfloat16: paired over seeds.

    python benchmarks/precision.py --out=FOLDER [--seeds=3] [--config=quickstart.gin]
        [--gin='student/Stage.epochs = 2']

Trains the run file once for each seed and precision, audits the student with the suite `quick`, and
prints W-Robust (mean of clean accuracy and worst case) and its difference from float32 at the same
seed. A run that is there is not run again; one that was cut off is resumed.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

from tables import table

HALF = "'mixed_bfloat16'"
PRECISIONS = {
    "float32": (),
    "attack in bfloat16": (f"Stage.attack_precision = {HALF}",),
    "all in bfloat16": (f"Stage.precision = {HALF}",),
}


def command(name: str, *arguments: str) -> None:
    """Runs a command of the package, quietly; its own line is shown where it fails."""
    words = [sys.executable, "-m", f"mtard_tf.bin.{name}", *arguments]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip().splitlines()[-1])


def weighted(folder: pathlib.Path, bindings: list[str], config: str) -> float:
    """W-Robust of the student of a run, in percent; trained and audited where it is not yet."""
    report = folder / "evaluation" / "student" / "report.json"
    if not report.exists():
        bound = [f"--gin={binding}" for binding in bindings]
        command("train", f"--config={config}", f"--run_dir={folder}", *bound)
        command("eval", f"--run_dir={folder}", "--stage=student")
    found = json.loads(report.read_text(encoding="utf-8"))
    return 100 * found["worst_case"]["w_robust"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--config", default="quickstart.gin")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gin", action="append", default=[])
    args = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for seed in range(args.seeds):
        for name, bindings in PRECISIONS.items():
            folder = args.out / f"{name.replace(' ', '_')}_{seed}"
            bound = [*args.gin, f"Experiment.seed = {seed}", *bindings]
            found[name].append(weighted(folder, bound, args.config))
            print(f"seed {seed}, {name}: {found[name][-1]:.1f} %", flush=True)
    rows = []
    for name, values in found.items():
        apart = [a - b for a, b in zip(values, found["float32"], strict=True)]
        spread = [
            statistics.pstdev(v) if len(v) < 2 else statistics.stdev(v) for v in (values, apart)
        ]
        means = statistics.mean(values), statistics.mean(apart)
        rows.append([name, means[0], spread[0], means[1], spread[1], min(apart), max(apart)])
    header = ["", "W-Robust", "deviation", "over float32", "deviation", "least", "most"]
    table(header, rows, ".2f")


if __name__ == "__main__":
    main()
