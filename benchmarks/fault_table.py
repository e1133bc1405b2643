"""Tries faults on small runs and prints what a user sees of each, as a Markdown table.

    python benchmarks/fault_table.py

Each fault is brought about for real: a signal, a damaged file, a full or read-only disk (a small
tmpfs, which needs root), another trainer. Then the cause is taken away and the same command is run
again; the last column says whether its weights equal those of a run without the fault, to the bit.
SIGKILL has a script of its own, `kill_test.py`.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable

from faults import Faults, small_disk
from small_run import free_port


def preempted(faults: Faults) -> None:
    faults.report("SIGTERM", faults.cut("sigterm"), "sigterm")


def damaged_checkpoint(faults: Faults) -> None:
    faults.cut("damaged")
    newest = faults.states("damaged")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    seen = faults.train("damaged")
    faults.report("newest checkpoint truncated", seen, "damaged")


def both_damaged(faults: Faults) -> None:
    faults.cut("both")
    for path in faults.states("both"):
        path.write_bytes(b"")
    seen = faults.train("both")
    faults.report("all checkpoints empty", seen, "both")


def vanished_teacher(faults: Faults) -> None:
    faults.cut("vanished")
    given = faults.folder / "given" / "clean.keras"
    hidden = given.rename(given.with_suffix(".hidden"))
    seen = faults.train("vanished")
    hidden.rename(given)
    faults.report("teacher's file vanished", seen, "vanished")


def replaced_teacher(faults: Faults) -> None:
    faults.cut("replaced")
    given = faults.folder / "given"
    shutil.copy(given / "clean.keras", given / "kept")
    shutil.copy(given / "robust.keras", given / "clean.keras")
    seen = faults.train("replaced")
    (given / "kept").rename(given / "clean.keras")
    faults.report("teacher's file replaced", seen, "replaced")


def damaged_teacher(faults: Faults) -> None:
    faults.cut("broken")
    given = faults.folder / "given"
    content = (given / "clean.keras").read_bytes()
    (given / "clean.keras").write_bytes(content[:500])
    seen = faults.train("broken")
    (given / "clean.keras").write_bytes(content)
    faults.report("teacher's file truncated", seen, "broken")


def second_trainer(faults: Faults) -> None:
    first = faults.start("run.gin", "second")
    while not faults.states("second"):
        time.sleep(0.01)
    seen = faults.train("second")
    first.communicate()
    faults.report("a second trainer in the run directory", seen, "second")


def other_configuration(faults: Faults) -> None:
    faults.cut("other")
    line, code = faults.train("other", "--gin=student/Stage.learning_rate = 0.5")
    faults.report("another configuration", (line, code), "other")


def not_finite(faults: Faults) -> None:
    seen = faults.train("infinite", "--gin=student/Stage.learning_rate = 1e30")
    faults.report("loss is not finite (learning rate 1e30)", seen, None)


def full_disk(faults: Faults) -> None:
    with small_disk(faults, "full", "size=300k") as disk:
        filler = disk / "filler"
        process = faults.start("run.gin", "full/run")
        while not faults.states("full/run"):
            time.sleep(0.01)
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"\0" * 1024)
                file.flush()
        seen = faults.end(process)
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        faults.report("disk full", seen, "full/run")


def read_only(faults: Faults) -> None:
    with small_disk(faults, "readonly", "size=100m") as disk:
        faults.cut("readonly/run")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        seen = faults.train("readonly/run")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        faults.report("run directory read-only", seen, "readonly/run")


def lost_worker(faults: Faults) -> None:
    ports = ",".join(f"localhost:{free_port()}" for _ in range(2))
    flags = ["--strategy=multi_worker", f"--workers={ports}"]
    workers = [faults.start("run.gin", "lost", *flags, f"--index={i}") for i in range(2)]
    while not faults.states("lost"):
        time.sleep(0.01)
    workers[1].kill()
    seen = faults.end(workers[0])
    # One process goes on where two were, with other sums: no equality is to be expected.
    line, code = faults.train("lost")
    done = "nothing: went on from the checkpoint" if code == 0 else f"exit {code}: {line}"
    print(f"| one of two workers killed | `{seen[0]}` | {seen[1]} | {done} |", flush=True)


TRIES: tuple[Callable[[Faults], None], ...] = (
    preempted,
    damaged_checkpoint,
    both_damaged,
    vanished_teacher,
    replaced_teacher,
    damaged_teacher,
    second_trainer,
    other_configuration,
    not_finite,
    full_disk,
    read_only,
    lost_worker,
)


def main() -> None:
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        faults = Faults(pathlib.Path(name))
        print("| fault | what the user sees | exit code | what was lost |\n|---|---|---|---|")
        for attempt in TRIES:
            if attempt in (full_disk, read_only) and not root:
                print(f"| {attempt.__name__} | not tried: needs root | | |")
                continue
            attempt(faults)


if __name__ == "__main__":
    main()
