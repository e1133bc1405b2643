"""A distillation from two imported teachers: killed, resumed, evaluated, exported.

    python benchmarks/imported_run.py --clean=resnet56.keras --robust=resnet20.keras \
        --data_dir=DIR --out=DIR

The teachers come from `import_accuracy.py` (or any `mtard-import`). The setting is cifar10, cut
short to 200 steps of 16 images. The first process is killed (SIGKILL) once it has written a
checkpoint after step --kill_at; the second must go on from there and not from the beginning.
`mtard-eval` and `mtard-export` follow. Exit code 0 only if all of it went well.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clean", required=True, help="the clean teacher's file")
    parser.add_argument("--robust", required=True, help="the robust teacher's file")
    parser.add_argument("--data_dir", help="prepared TFDS sets; default TFDS' own")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="run directory, new")
    parser.add_argument("--student", default="resnet20", help="resnet20, mobilenet_v2, ...")
    parser.add_argument("--kill_at", type=int, default=60, help="step before which none is killed")
    parser.add_argument("--examples", type=int, default=64, help="test images of the audit")
    return parser.parse_args()


def command(name: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", f"mtard_tf.bin.{name}", *flags]


def newest(checkpoints: pathlib.Path) -> int:
    """The step of the newest whole checkpoint, 0 for none."""
    steps = [int(p.stem.removeprefix("state-")) for p in checkpoints.glob("state-*.npz")]
    return max(steps, default=0)


def main() -> None:
    args = parse()
    run_dir = args.out.resolve()
    teachers = {
        "clean": str(pathlib.Path(args.clean).resolve()),
        "robust": str(pathlib.Path(args.robust).resolve()),
    }
    bindings = [
        "student/Stage.distiller = @distillers.bmtard",
        f"student/Stage.teachers = {teachers}",
        # An epoch is what is left to train on: 1,600 images, 100 steps.
        "datasets.cifar10.validation_examples = 48400",
        "Stage.batch_size = 16",
        "Stage.epochs = 2",
        "Stage.validation_examples = 64",
        "Stage.checkpoint_every = 20",
        f"Stage.model = @models.{args.student}",
    ]
    if args.data_dir:
        bindings.append(f"datasets.cifar10.data_dir = '{args.data_dir}'")
    train = command(
        *("train", "--config=settings/cifar10.gin", f"--run_dir={run_dir}"),
        *(f"--gin={binding}" for binding in bindings),
    )
    process = subprocess.Popen(train, cwd=ROOT)
    checkpoints = run_dir / "student" / "checkpoints"
    while newest(checkpoints) < args.kill_at and process.poll() is None:
        time.sleep(0.5)
    process.kill()
    process.wait()
    killed = newest(checkpoints)
    print(f"\nkilled; newest checkpoint: step {killed}", flush=True)
    done = subprocess.run(train, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=True)
    resumed = [line for line in done.stderr.splitlines() if "resumes at step" in line]
    print(*resumed, sep="\n")
    assert killed >= args.kill_at and f"resumes at step {killed:,} of 200." in resumed[0]
    result = json.loads((run_dir / "student" / "stage.json").read_text(encoding="utf-8"))
    assert result["steps"] == 200, result
    metrics = (run_dir / "student" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    print(f"metrics: {len(metrics)} lines, last {metrics[-1][:200]}")
    evaluate = command("eval", f"--run_dir={run_dir}", f"--examples={args.examples}")
    subprocess.run(evaluate, cwd=ROOT, check=True)
    subprocess.run(command("export", f"--run_dir={run_dir}"), cwd=ROOT, check=True)
    card = run_dir / "export" / "student" / "1" / "README.md"
    print(card.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
