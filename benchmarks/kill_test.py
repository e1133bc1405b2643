"""Kills runs, starts them again, and holds what comes out against a run that nobody killed.

    python benchmarks/kill_test.py --kills=20             # train, evaluate, export
    python benchmarks/kill_test.py --kills=4 --workers=2  # kills one of two training workers

A run of three stages on small images is killed with SIGKILL, at random moments and at chosen ones
(while a checkpoint is written, at the end of a stage, in the evaluation, in the export), and each
time the same commands are run again. In the end weights, `metrics.jsonl`, `stage.json`, reports and
the exported model's logits must equal those of a run that nobody killed, to the bit. Prints one
line per kill and the comparison; exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from small_run import CONFIG, DATA, ROOT, STAGES, SUITE, free_port

CHECKPOINT = "a checkpoint is written"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="training processes")
    return parser.parse_args()


class Run:
    """The commands of one run directory."""

    def __init__(self, folder: pathlib.Path, name: str, workers: int) -> None:
        self.run_dir, self.folder, self.workers = folder / name, folder, workers
        self.environment = os.environ | {
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.log = (folder / f"{name}.log").open("ab")

    def commands(self) -> list[list[list[str]]]:
        """Processes that run side by side, by turn."""
        here = f"--run_dir={self.run_dir}"
        train = ["train", f"--config={self.folder / 'run.gin'}", here]
        turns = [[train]]
        if self.workers > 1:
            ports = ",".join(f"localhost:{free_port()}" for _ in range(self.workers))
            flags = ["--strategy=multi_worker", f"--workers={ports}"]
            turns = [[[*train, *flags, f"--index={i}"] for i in range(self.workers)]]
        suite = f"--suite={self.folder / 'suite.gin'}"
        return [*turns, [["eval", here, suite]], [["export", here, "--stage=student"]]]

    def changed(self) -> float:
        """When anything in the run directory was written last."""
        paths = self.run_dir.rglob("*") if self.run_dir.exists() else ()
        times = []
        for path in paths:
            try:
                times.append(path.stat().st_mtime)
            except FileNotFoundError:
                pass  # removed since it was listed
        return max(times, default=0.0)

    def attempt(self, delay: float | None, when: Callable[[], bool] | None, victim: int) -> bool:
        """Runs the commands; kills a process `delay` after its first write, or once `when` holds.

        Returns:
          Whether all of them ended well.
        """
        begun, working = time.time(), None
        for turn in self.commands():
            running = [
                subprocess.Popen(
                    [sys.executable, "-m", f"mtard_tf.bin.{command[0]}", *command[1:]],
                    env=self.environment,
                    cwd=self.folder,
                    stdout=self.log,
                    stderr=self.log,
                )
                for command in turn
            ]
            while any(process.poll() is None for process in running):
                if delay is not None and working is None and self.changed() > begun:
                    working = time.monotonic()
                late = working is not None and time.monotonic() - working > (delay or 0.0)
                if late or (when is not None and when()):
                    running[victim % len(running)].send_signal(signal.SIGKILL)
                    time.sleep(1 if len(running) > 1 else 0)
                    for process in running:  # what a scheduler does with the others
                        process.kill()
                        process.wait()
                    return False
                time.sleep(0.002)
            if any(process.returncode for process in running):
                lines = pathlib.Path(self.log.name).read_text(errors="replace").splitlines()
                print(*lines[-20:], sep="\n")
                raise SystemExit(f"A command failed: {[p.returncode for p in running]}.")
        return True


def moments(run_dir: pathlib.Path) -> dict[str, Callable[[], bool]]:
    """Chosen moments, by what lies in the run directory then."""

    def exists(pattern: str) -> Callable[[], bool]:
        return lambda: any(run_dir.glob(pattern))

    def ending(stage: str) -> Callable[[], bool]:
        folder = run_dir / stage
        return lambda: (folder / "student.keras").exists() and not (folder / "stage.json").exists()

    return {
        CHECKPOINT: exists("student/checkpoints/.state-*"),
        "the best student is written": exists("student/checkpoints/.best*"),
        "clean_teacher ends": ending("clean_teacher"),
        "student ends": ending("student"),
        "the audit has a batch": exists("evaluation/student/progress*"),
        "the export is written": exists("export/student/.*"),
    }


def differences(killed: pathlib.Path, whole: pathlib.Path) -> list[str]:
    """What is not the same in the two run directories."""
    import keras
    import numpy as np
    import tensorflow as tf

    found = []
    for stage in STAGES:
        ours, theirs = (
            keras.models.load_model(folder / stage / "student.keras", compile=False).get_weights()
            for folder in (killed, whole)
        )
        if not all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)):
            found.append(f"{stage}: weights")
        for name in ("metrics.jsonl", "stage.json"):
            if (killed / stage / name).read_bytes() != (whole / stage / name).read_bytes():
                found.append(f"{stage}/{name}")
    for name in (*(f"evaluation/{stage}/report.json" for stage in STAGES), "report/report.md"):
        ours, theirs = (folder / name for folder in (killed, whole))
        # A report names its run directory.
        if ours.read_text().replace(killed.name, whole.name) != theirs.read_text():
            found.append(name)
    images = np.random.RandomState(1).randint(0, 256, (16, 8, 8, 3), np.uint8)
    ours, theirs = (
        tf.saved_model.load(str(folder / "export" / "student" / "1"))
        .signatures["serving_default"](images=tf.constant(images))["logits"]
        .numpy()
        for folder in (killed, whole)
    )
    if not np.array_equal(ours, theirs):
        found.append("logits of the export")
    return found


def main() -> None:
    args = parse()
    numbers = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "run.gin").write_text(CONFIG)
        (folder / "suite.gin").write_text(SUITE)
        (folder / "kill_test_data.py").write_text(DATA)
        whole = Run(folder, "whole", args.workers)
        started = time.monotonic()
        assert whole.attempt(None, None, 0)
        length = time.monotonic() - started
        print(f"unkilled: {length:.0f} s", flush=True)
        done, found, runs = 0, [], 0
        while done < args.kills:
            runs += 1
            killed = Run(folder, f"killed{runs}", args.workers)
            chosen = list(moments(killed.run_dir).items())
            numbers.shuffle(chosen)
            chosen.sort(key=lambda moment: moment[0] == CHECKPOINT)  # the last is the next
            while done < args.kills:
                # Every second kill waits for a chosen moment while there are any left.
                what, when = chosen.pop() if chosen and done % 2 else ("", None)
                delay = None if when else numbers.uniform(0.0, length / 5)
                started = time.monotonic()
                if killed.attempt(delay, when, numbers.randrange(args.workers)):
                    break
                done += 1
                spent = time.monotonic() - started
                print(f"kill {done:2}: after {spent:5.1f} s {what and f'({what})'}", flush=True)
            assert killed.attempt(None, None, 0)
            found += differences(killed.run_dir, whole.run_dir)
            log = (folder / f"killed{runs}.log").read_text(errors="replace")
            said = [line for line in log.splitlines() if "goes on" in line or "damaged" in line]
            print(f"run {runs} ended; it said {len(said)} times that it goes on", flush=True)
        print(f"{done} kills in {runs} runs; differences: {', '.join(found) or 'none'}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
